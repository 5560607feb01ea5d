/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Access to a packet's bytes. Headers are read in place: bpf_skb_load_bytes costs 15 ns a call. */
#pragma once
#include "kernel.h"
#include "limits.h"

#define VLAN_NUMBER 0x0fff
#define OTHER_HOST 3 /* skb->pkt_type of a frame for another MAC address */

/* A node on the way counts as one. False: this was the last. */
static __always_inline bool lower_ttl(struct iphdr *ip)
{
	__u32 sum = ip->check + bpf_htons(0x0100);

	if (ip->ttl <= 1)
		return false;
	ip->ttl--;
	ip->check = sum + (sum >= 0xffff);
	return true;
}

static __always_inline bool lower_hop_limit(struct ipv6hdr *ip)
{
	if (ip->hop_limit <= 1)
		return false;
	ip->hop_limit--;
	return true;
}

/* The context's packet pointers are declared 32 bits wide: with -mcpu=v3 clang moves them through 32-bit registers, which
 * makes them plain numbers to the verifier. Assembly keeps it out. */
static __always_inline void *packet_start(const struct __sk_buff *skb)
{
	void *at;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(at) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data)));
	return at;
}

static __always_inline void *packet_end(const struct __sk_buff *skb)
{
	void *at;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(at) : "r"(skb), "i"(__builtin_offsetof(struct __sk_buff, data_end)));
	return at;
}

/* NULL when the packet does not have `len` bytes at `off`. The verifier follows offsets of up to 16 bits only. */
static __always_inline void *header_at(const struct __sk_buff *skb, __u64 off, __u64 len)
{
	void *at;

	if (off > HEADERS_MAX)
		return NULL;
	at = packet_start(skb) + off;
	return at + len <= packet_end(skb) ? at : NULL;
}

/* TCP or UDP right behind the IP header, with all that is read of them in the linear part. */
static __always_inline bool has_plain_headers(const struct __sk_buff *skb)
{
	struct { struct iphdr ip; __u8 l4[16]; } *v4;
	struct { struct ipv6hdr ip; __u8 l4[16]; } *v6;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		v4 = header_at(skb, ETH_HLEN, sizeof(*v4));
		return v4 && v4->ip.ihl == 5 && (v4->ip.protocol == IPPROTO_TCP || v4->ip.protocol == IPPROTO_UDP);
	}
	v6 = header_at(skb, ETH_HLEN, sizeof(*v6));
	return v6 && (v6->ip.nexthdr == IPPROTO_TCP || v6->ip.nexthdr == IPPROTO_UDP);
}

/* Of a virtual LAN, which is another link than the device's own. A tag without a number means a priority only. */
static __always_inline bool is_tagged(const struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_tci & VLAN_NUMBER;
}

/* Ordinary senders leave all headers in the linear part, and often nothing else: pulling data behind them would copy all of
 * that part of a packet that a socket still holds. */
static __always_inline bool make_linear(struct __sk_buff *skb)
{
	__u64 want = skb->len < LINEAR_BYTES ? skb->len : LINEAR_BYTES;

	return likely(packet_start(skb) + want <= packet_end(skb)) || has_plain_headers(skb) || !bpf_skb_pull_data(skb, want);
}
