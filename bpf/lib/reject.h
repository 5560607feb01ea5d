/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Telling a client that nobody is behind a service: the packet becomes an ICMP error about itself. */
#pragma once
#include "balance.h"
#include "trace.h"

#define ICMP_PORT_UNREACHABLE 3
#define ICMP6_DEST_UNREACH 1
#define ICMP6_PORT_UNREACHABLE 4
#define TCP_HEADER 20 /* all of it: where its checksum is left to the device, the kernel does not let it be cut off */
#define SCTP_HEADER 12
#define QUOTED_MAX (sizeof(struct ipv6hdr) + TCP_HEADER)

struct icmp_error {
	struct icmp_start start;
	__be32 quoted[QUOTED_MAX / 4]; /* zero behind the end */
};

struct pseudo_header {
	struct in6_addr src, dst;
	__be32 length, next;
};

struct rejections {
	__u32 tick, count;
	struct icmp_error error; /* the last one: on the stack it would be the largest variable of all programs */
};

struct { /* a CPU; errors are few, as the kernel's own */
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct rejections);
	__uint(max_entries, 1);
} rejected SEC(".maps");

/* Where to write one, all zero; NULL: there were enough. */
static __always_inline struct icmp_error *new_error(void)
{
	__u32 first = 0, now = ticks();
	struct rejections *so_far = bpf_map_lookup_elem(&rejected, &first);

	if (!so_far)
		return NULL;
	if (so_far->tick != now) {
		so_far->tick = now;
		so_far->count = 0;
	}
	if (so_far->count++ >= REJECTIONS_PER_TICK && !config.test)
		return NULL;
	__builtin_memset(&so_far->error, 0, sizeof(so_far->error));
	return &so_far->error;
}

static __always_inline __u16 fold_checksum(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

static __always_inline bool write_ipv4(struct __sk_buff *skb, const struct icmp_error *error, __u32 length)
{
	struct iphdr quoted, ip = {
		.version = 4, .ihl = 5, .tot_len = bpf_htons(sizeof(ip) + length), .ttl = 64, .protocol = IPPROTO_ICMP,
	};

	__builtin_memcpy(&quoted, error->quoted, sizeof(quoted));
	ip.saddr = quoted.daddr;
	ip.daddr = quoted.saddr;
	ip.check = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)&ip, sizeof(ip), 0));
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0);
}

static __always_inline bool write_ipv6(struct __sk_buff *skb, const struct icmp_error *error, __u32 length)
{
	struct ipv6hdr quoted, ip = { .version = 6, .payload_len = bpf_htons(length), .nexthdr = IPPROTO_ICMPV6, .hop_limit = 64 };

	__builtin_memcpy(&quoted, error->quoted, sizeof(quoted));
	ip.saddr = quoted.daddr;
	ip.daddr = quoted.saddr;
	return !bpf_skb_store_bytes(skb, ETH_HLEN, &ip, sizeof(ip), 0);
}

/* ICMPv6's checksum covers a pseudo header. */
static __always_inline __u32 pseudo_sum(const struct icmp_error *error, __u32 length)
{
	struct pseudo_header head = { .length = bpf_htonl(length), .next = bpf_htonl(IPPROTO_ICMPV6) };

	__builtin_memcpy(&head.src, error->quoted + offsetof(struct ipv6hdr, saddr) / 4, 2 * sizeof(struct in6_addr));
	return bpf_csum_diff(NULL, 0, (__be32 *)&head, sizeof(head), 0);
}

/* False: it is left as it was, or spoilt. Packets with options, extension headers or fragments are not worth the trouble. */
static __always_inline bool make_unreachable(struct __sk_buff *skb, const struct flow *f)
{
	struct icmp_error *error;
	__u32 v4 = opaque(addr_is_v4(&f->dst));
	__u32 ip_len = v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr), quoted, length;
	struct ethhdr eth, turned;

	quoted = f->proto == IPPROTO_TCP ? TCP_HEADER : f->proto == IPPROTO_SCTP ? SCTP_HEADER : sizeof(struct udphdr);
	quoted = opaque(ip_len + quoted);
	length = sizeof(error->start) + quoted;
	if (f->fragment || f->l4 != ETH_HLEN + ip_len || quoted > sizeof(error->quoted))
		return false;
	error = new_error();
	if (!error)
		return false;
	if (bpf_skb_load_bytes(skb, 0, &eth, sizeof(eth)) || bpf_skb_change_tail(skb, ETH_HLEN + quoted, 0) ||
	    bpf_skb_load_bytes(skb, ETH_HLEN, error->quoted, quoted) ||
	    bpf_skb_adjust_room(skb, ip_len + sizeof(error->start), BPF_ADJ_ROOM_MAC, 0))
		return false;
	error->start.type = v4 ? ICMP_DEST_UNREACH : ICMP6_DEST_UNREACH;
	error->start.code = v4 ? ICMP_PORT_UNREACHABLE : ICMP6_PORT_UNREACHABLE;
	error->start.sum = fold_checksum(bpf_csum_diff(NULL, 0, (__be32 *)error, sizeof(*error), v4 ? 0 : pseudo_sum(error, length)));
	turned.h_proto = eth.h_proto;
	__builtin_memcpy(turned.h_dest, eth.h_source, ETH_ALEN);
	__builtin_memcpy(turned.h_source, eth.h_dest, ETH_ALEN);
	return !bpf_skb_store_bytes(skb, 0, &turned, sizeof(turned), 0) &&
	       (v4 ? write_ipv4(skb, error, length) : write_ipv6(skb, error, length)) &&
	       !bpf_skb_store_bytes(skb, ETH_HLEN + ip_len, error, sizeof(error->start), 0);
}

/* For a dropped packet; true when it has become the answer to its sender. */
OWN_FUNCTION int reject(struct __sk_buff *skb)
{
	struct flow *f = this_flow();

	return config.reject_no_backend && f && make_unreachable(skb, f);
}
