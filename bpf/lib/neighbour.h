/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Who has an announced address? ARP requests (RFC 826, probes of RFC 5227) and neighbour solicitations (RFC 4861) get their
 * answer on the link they came from. What is malformed, or asks for somebody else, goes on to the node's stack. */
#pragma once
#include "../maps/l2.h"
#include "config.h"
#include "deliver.h"
#include "flow.h"

#define ARP_ETHERNET 1
#define ARP_REQUEST 1
#define ARP_REPLY 2
#define ND_HOP_LIMIT 255
#define ND_SOLICITED 0x40000000
#define ND_OVERRIDE 0x20000000
#define ND_MESSAGE_MAX 64 /* a solicitation has 24 bytes, and up to two options of 8 each when no SEND is used */
enum { ND_SOURCE_MAC = 1, ND_TARGET_MAC = 2 };
enum { ICMP6_NEIGHBOUR_SOLICITATION = 135, ICMP6_NEIGHBOUR_ADVERTISEMENT = 136 };

struct arp {
	__be16 hardware, protocol;
	__u8 hardware_len, protocol_len;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__be32 sender;
	__u8 target_mac[ETH_ALEN];
	__be32 target;
} __attribute__((packed));
ASSERT_SIZE(struct arp, 28);

struct arp_frame {
	struct ethhdr eth;
	struct arp arp;
} __attribute__((packed));

struct nd_message {
	__u8 type, code;
	__be16 sum;
	__be32 flags;
	struct addr target;
};
ASSERT_SIZE(struct nd_message, 24);

struct advertisement {
	struct nd_message message;
	__u8 option, option_len; /* in eights */
	__u8 mac[ETH_ALEN];
};
ASSERT_SIZE(struct advertisement, 32);

struct advertisement_frame {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct advertisement advertisement;
} __attribute__((packed));

struct aligned_frame {
	__u8 pad[2]; /* sums are taken of whole words */
	struct advertisement_frame frame;
} __attribute__((aligned(8)));

/* One after the other. Not on the stack, which has 512 bytes for all functions that are in each other. */
union nd_room {
	__u8 asked[ND_MESSAGE_MAX];
	struct aligned_frame reply;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, union nd_room);
	__uint(max_entries, 1);
} nd_rooms SEC(".maps");

struct nd_pseudo {
	struct addr src, dst;
	__be32 len, next;
};

/* The row of an address on this link, as long as its lease is good. */
static __always_inline struct l2_responder *find_responder(const struct __sk_buff *skb, const struct addr *addr)
{
	struct l2_key key = { .addr = *addr, .ifindex = skb->ifindex };
	struct l2_responder *found = bpf_map_lookup_elem(&l2_responder, &key);
	struct l2_lease *lease;
	__u64 id;

	if (likely(!found))
		return NULL;
	id = found->lease;
	lease = bpf_map_lookup_elem(&l2_leases, &id);
	return lease && bpf_ktime_get_boot_ns() < lease->until ? found : NULL;
}

static __always_inline int send_back(struct __sk_buff *skb, struct l2_responder *as)
{
	__sync_fetch_and_add(&as->responses, 1);
	show_target(skb, skb->ifindex);
	return bpf_redirect(skb->ifindex, 0);
}

/* The answer's verdict, or OK when there is none. */
OWN_FUNCTION int answer_arp(struct __sk_buff *skb)
{
	struct arp_frame *asked = header_at(skb, 0, sizeof(*asked)), reply = {};
	struct l2_responder *as;
	struct addr target;

	if (!asked || asked->arp.hardware != bpf_htons(ARP_ETHERNET) ||
	    asked->arp.protocol != bpf_htons(ETH_P_IP) || asked->arp.hardware_len != ETH_ALEN || asked->arp.protocol_len != 4 ||
	    asked->arp.operation != bpf_htons(ARP_REQUEST))
		return OK;
	if (asked->arp.sender == asked->arp.target) /* not a question: somebody announces it */
		return OK;
	target = addr_from_v4(asked->arp.target);
	as = find_responder(skb, &target);
	if (!as)
		return OK;
	__builtin_memcpy(reply.eth.h_dest, asked->arp.sender_mac, ETH_ALEN);
	__builtin_memcpy(reply.eth.h_source, as->mac, ETH_ALEN);
	reply.eth.h_proto = bpf_htons(ETH_P_ARP);
	reply.arp.hardware = asked->arp.hardware;
	reply.arp.protocol = asked->arp.protocol;
	reply.arp.hardware_len = ETH_ALEN;
	reply.arp.protocol_len = sizeof(reply.arp.sender);
	reply.arp.operation = bpf_htons(ARP_REPLY);
	__builtin_memcpy(reply.arp.sender_mac, as->mac, ETH_ALEN);
	reply.arp.sender = asked->arp.target;
	__builtin_memcpy(reply.arp.target_mac, asked->arp.sender_mac, ETH_ALEN);
	reply.arp.target = asked->arp.sender;
	if (bpf_skb_store_bytes(skb, 0, &reply, sizeof(reply), BPF_F_RECOMPUTE_CSUM))
		return DROP_WRITE_ERROR;
	return send_back(skb, as);
}

static __always_inline bool is_solicitation(const struct __sk_buff *skb, const struct flow *f)
{
	return skb->protocol == bpf_htons(ETH_P_IPV6) && f->proto == IPPROTO_ICMPV6 && f->icmp_type == ICMP6_NEIGHBOUR_SOLICITATION &&
	       f->l4 == ETH_HLEN + sizeof(struct ipv6hdr);
}

/* ff02::1:ff00:0/104, the group of all addresses with the same end. */
static __always_inline bool is_solicited_group(const struct addr *a)
{
	return a->w[0] == bpf_htonl(0xff020000) && !a->w[1] && a->w[2] == bpf_htonl(1) && (a->w[3] | bpf_htonl(0x00ffffff)) == 0xffffffff;
}

/* Of an ICMPv6 message in whole words behind its pseudo header; negative when the kernel refuses. */
static __always_inline __s64 nd_sum(const struct addr *src, const struct addr *dst, __u32 len, const void *message, __u32 room)
{
	struct nd_pseudo pseudo = { .src = *src, .dst = *dst, .len = bpf_htonl(len), .next = bpf_htonl(IPPROTO_ICMPV6) };
	__s64 sum = bpf_csum_diff(NULL, 0, (void *)&pseudo, sizeof(pseudo), 0);

	if (sum >= 0)
		sum = bpf_csum_diff(NULL, 0, (void *)message, room, sum);
	if (sum < 0)
		return sum;
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

/* RFC 4861 7.1.1, but for what the caller has checked: the checksum, and options that fill the message. */
static __always_inline bool is_valid_solicitation(struct __sk_buff *skb, const struct flow *f, __u32 len, __u8 *message)
{
	bool is_probe = is_unspecified(&f->src);
	__u32 end = sizeof(struct nd_message);

	if (len < sizeof(struct nd_message) || len > ND_MESSAGE_MAX || len & 7)
		return false;
	__builtin_memset(message, 0, ND_MESSAGE_MAX);
	if (bpf_skb_load_bytes(skb, f->l4, message, len) || nd_sum(&f->src, &f->dst, len, message, ND_MESSAGE_MAX) != 0xffff)
		return false;
#pragma unroll
	for (__u32 at = sizeof(struct nd_message); at < ND_MESSAGE_MAX; at += 8) {
		if (at != end || at == len)
			continue;
		if (!message[at + 1] || (is_probe && message[at] == ND_SOURCE_MAC))
			return false;
		end += message[at + 1] * 8;
	}
	return end == len;
}

/* To who asked; a probe for a duplicate (RFC 4862) is answered to everybody. */
static __always_inline int advertise(struct __sk_buff *skb, const struct flow *f, const struct addr *target, const __u8 *asker, struct l2_responder *as,
				     struct advertisement_frame *reply)
{
	bool is_probe = is_unspecified(&f->src);
	struct advertisement *a = &reply->advertisement;
	struct addr to = { { bpf_htonl(0xff020000), 0, 0, bpf_htonl(1) } };
	__u8 everybody[ETH_ALEN] = { 0x33, 0x33, 0, 0, 0, 1 };
	__s64 sum;

	if (!is_probe)
		to = f->src;
	__builtin_memset(reply, 0, sizeof(*reply));
	__builtin_memcpy(reply->eth.h_dest, is_probe ? everybody : asker, ETH_ALEN);
	__builtin_memcpy(reply->eth.h_source, as->mac, ETH_ALEN);
	reply->eth.h_proto = bpf_htons(ETH_P_IPV6);
	reply->ip.version = 6;
	reply->ip.payload_len = bpf_htons(sizeof(*a));
	reply->ip.nexthdr = IPPROTO_ICMPV6;
	reply->ip.hop_limit = ND_HOP_LIMIT;
	__builtin_memcpy(&reply->ip.saddr, target, sizeof(*target));
	__builtin_memcpy(&reply->ip.daddr, &to, sizeof(to));
	a->message.type = ICMP6_NEIGHBOUR_ADVERTISEMENT;
	a->message.flags = bpf_htonl(is_probe ? ND_OVERRIDE : ND_SOLICITED | ND_OVERRIDE);
	__builtin_memcpy(&a->message.target, target, sizeof(*target));
	a->option = ND_TARGET_MAC;
	a->option_len = 1;
	__builtin_memcpy(a->mac, as->mac, ETH_ALEN);
	sum = nd_sum(target, &to, sizeof(*a), a, sizeof(*a));
	if (sum < 0)
		return DROP_WRITE_ERROR;
	a->message.sum = ~sum;
	if (bpf_skb_change_tail(skb, sizeof(*reply), 0) || bpf_skb_store_bytes(skb, 0, reply, sizeof(*reply), BPF_F_RECOMPUTE_CSUM))
		return DROP_WRITE_ERROR;
	return send_back(skb, as);
}

/* The answer's verdict, or OK when there is none. */
OWN_FUNCTION int answer_solicitation(struct __sk_buff *skb)
{
	const struct flow *f = this_flow();
	struct { struct ethhdr eth; struct ipv6hdr ip; struct nd_message message; } __attribute__((packed)) *asked;
	struct l2_responder *as;
	union nd_room *room;
	__u32 first = 0;
	struct addr target;
	__u8 asker[ETH_ALEN];
	__u32 len;

	if (!f)
		return OK;
	asked = header_at(skb, 0, sizeof(*asked));
	if (!asked || asked->ip.hop_limit != ND_HOP_LIMIT || asked->message.code)
		return OK;
	if (is_unspecified(&f->src) && !is_solicited_group(&f->dst))
		return OK;
	__builtin_memcpy(&target, &asked->message.target, sizeof(target));
	__builtin_memcpy(asker, asked->eth.h_source, ETH_ALEN);
	len = bpf_ntohs(asked->ip.payload_len);
	if (addr_is_v4(&target)) /* would read as an IPv4 address here */
		return OK;
	as = find_responder(skb, &target);
	room = bpf_map_lookup_elem(&nd_rooms, &first);
	if (!as || !room || !is_valid_solicitation(skb, f, len, room->asked))
		return OK;
	return advertise(skb, f, &target, asker, as, &room->reply.frame);
}
