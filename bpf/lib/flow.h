/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From a packet to a flow, for both families. */
#pragma once
#include "../maps/fragments.h"
#include "addr.h"
#include "packet.h"
#include "verdict.h"

enum fragment_place { NOT_FRAGMENTED, FIRST_FRAGMENT, LATER_FRAGMENT };

struct flow {
	struct addr src WIDE, dst WIDE;
	__be16 sport, dport;  /* ICMP echo: the id is the asking side's port, the other one is 0 */
	__u16 l4;             /* offset of the L4 header */
	__u8 proto;
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 opens;           /* TCP SYN without ACK; an echo request whose id of 0 does not tell the sides apart */
	__u8 related;         /* an ICMP error: it speaks of another packet */
	__u8 fragment;        /* enum fragment_place: later ones have no L4 header */
	__u32 src_id, dst_id;
	__u16 endpoint;       /* whose drop it is, if it is one */
	__u8 direction;
	__u8 reply;           /* known after conntrack */
	__u8 replies_by_overlay;
	__u8 balanced;        /* its other end is a service's backend */
};

/* One packet's flow a CPU, and that of the packet that an ICMP error quotes. On the stack the verifier would remember each
 * field as every way through the parser leaves it, and follow the rest of the program for each: twice the work. Programs at TC
 * do not interrupt each other. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct flow);
	__uint(max_entries, 2);
} flows SEC(".maps");

/* Never NULL, but the verifier wants to see it asked. */
static __always_inline struct flow *new_flow(enum direction direction)
{
	__u32 first = 0;
	struct flow *f = bpf_map_lookup_elem(&flows, &first);

	if (f) {
		__builtin_memset(f, 0, sizeof(*f));
		f->direction = direction;
	}
	return f;
}

/* The packet's flow again, in a function of its own. */
static __always_inline struct flow *this_flow(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&flows, &first);
}

/* The packet of which an ICMP error speaks, turned round, so that it reads as one that travels with the error. Its protocol is
 * 0 when nothing is known of it. To be asked for only when f->related; NULL as new_flow. */
static __always_inline struct flow *quoted_flow(void)
{
	__u32 second = 1;

	return bpf_map_lookup_elem(&flows, &second);
}

struct ports { __be16 src, dst; };
struct tcp_start { struct ports ports; __be32 seq, ack; __u8 doff, flags; };
struct icmp_start { __u8 type, code; __be16 sum, id, seq; };
struct fragment_header { __u8 next, reserved; __be16 place; __be32 id; };

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define IPV4_MORE 0x2000
#define IPV4_OFFSET 0x1fff
#define IPV6_MORE 0x0001
#define IPV6_OFFSET 0xfff8
#define TCP_JUDGED_BY 16 /* RFC 1858: a first fragment holds all up to the flags, else they come with the next one */

enum { ICMP_ECHOREPLY = 0, ICMP_DEST_UNREACH = 3, ICMP_ECHO = 8, ICMP_TIME_EXCEEDED = 11, ICMP_PARAMETERPROB = 12 };
enum {
	ICMP6_ECHO_REQUEST = 128, ICMP6_ECHO_REPLY = 129,
	ICMP6_ROUTER_ADVERTISEMENT = 134, ICMP6_REDIRECT = 137,
};

/* A value of which the verifier forgets what it has learned: else it follows the rest of a program once for each. */
static __always_inline __u32 opaque(__u32 value)
{
	asm volatile("%0 ^= 0" : "+r"(value));
	return value;
}

static __always_inline int parse_ipv4(const struct __sk_buff *skb, __u32 off, struct flow *f, __be32 *id)
{
	struct iphdr *ip = header_at(skb, off, sizeof(*ip));
	__u16 place;

	if (unlikely(!ip || ip->version != 4 || ip->ihl < 5))
		return DROP_INVALID;
	f->src = addr_from_v4(ip->saddr);
	f->dst = addr_from_v4(ip->daddr);
	f->proto = ip->protocol;
	f->l4 = off + ip->ihl * 4;
	place = bpf_ntohs(ip->frag_off);
	if (unlikely(place & (IPV4_MORE | IPV4_OFFSET))) {
		f->fragment = place & IPV4_OFFSET ? LATER_FRAGMENT : FIRST_FRAGMENT;
		*id = ip->id;
		if (f->fragment == FIRST_FRAGMENT && f->proto == IPPROTO_TCP && bpf_ntohs(ip->tot_len) < ip->ihl * 4 + TCP_JUDGED_BY)
			return DROP_INVALID;
	}
	return OK;
}

static __always_inline int parse_ipv6(const struct __sk_buff *skb, __u32 start, struct flow *f, __be32 *id)
{
	__u32 off = start;
	struct ipv6hdr *ip = header_at(skb, off, sizeof(*ip));
	struct { __u8 next, len; } *ext;

	if (unlikely(!ip || ip->version != 6))
		return DROP_INVALID;
	__builtin_memcpy(&f->src, &ip->saddr, sizeof(f->src));
	__builtin_memcpy(&f->dst, &ip->daddr, sizeof(f->dst));
	if (addr_is_v4(&f->src) || addr_is_v4(&f->dst)) /* RFC 4291 2.5.5.2: not on the wire; here they would pass for IPv4 */
		return DROP_INVALID;
	f->proto = ip->nexthdr;
	off += sizeof(*ip);
#pragma unroll
	for (int i = 0; i <= IPV6_EXTENSIONS; i++) {
		if (unlikely(f->proto == IPPROTO_FRAGMENT)) {
			struct fragment_header *part = header_at(skb, off, sizeof(*part));

			if (!part)
				return DROP_INVALID;
			if (part->place & bpf_htons(IPV6_OFFSET))
				f->fragment = LATER_FRAGMENT;
			else if (part->place & bpf_htons(IPV6_MORE))
				f->fragment = FIRST_FRAGMENT; /* neither: an atomic fragment, RFC 6946 */
			*id = part->id;
			f->proto = part->next;
			off += sizeof(*part);
			if (f->fragment == LATER_FRAGMENT)
				break;
			continue;
		}
		if (likely(f->proto != IPPROTO_HOPOPTS && f->proto != IPPROTO_ROUTING && f->proto != IPPROTO_DSTOPTS)) {
			f->l4 = off;
			if (unlikely(f->fragment) && f->proto == IPPROTO_TCP &&
			    bpf_ntohs(ip->payload_len) < off - start - sizeof(*ip) + TCP_JUDGED_BY)
				return DROP_INVALID;
			return OK;
		}
		ext = header_at(skb, off, sizeof(*ext));
		if (!ext)
			return DROP_INVALID;
		f->proto = ext->next;
		off += (ext->len + 1) * 8;
	}
	f->l4 = off;
	return f->fragment == LATER_FRAGMENT ? OK : DROP_INVALID_EXTENSION;
}

/* Addresses, protocol, offset of the L4 header, place of a fragment. */
static __always_inline int parse_ip(const struct __sk_buff *skb, __u32 off, struct flow *f, __be32 *fragment_id)
{
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(skb, off, f, fragment_id);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(skb, off, f, fragment_id);
	return DROP_UNKNOWN_L3;
}

static __always_inline int parse_icmp4(const struct icmp_start *icmp, struct flow *f)
{
	switch (icmp->type) {
	case ICMP_ECHO:
		f->sport = icmp->id;
		f->opens = !icmp->id;
		return OK;
	case ICMP_ECHOREPLY:
		f->dport = icmp->id;
		return OK;
	case ICMP_DEST_UNREACH:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETERPROB:
		f->related = 1;
		return OK;
	}
	return DROP_UNKNOWN_ICMP4_TYPE;
}

/* Neighbour discovery and multicast listeners have no use on a pod's link, and some of it would be an attack. */
static __always_inline int parse_icmp6(const struct icmp_start *icmp, struct flow *f)
{
	switch (icmp->type) {
	case ICMP6_ECHO_REQUEST:
		f->sport = icmp->id;
		f->opens = !icmp->id;
		return OK;
	case ICMP6_ECHO_REPLY:
		f->dport = icmp->id;
		return OK;
	case ICMP6_ROUTER_ADVERTISEMENT:
	case ICMP6_REDIRECT:
		return DROP_FORBIDDEN_ICMP6;
	}
	if (icmp->type > 127)
		return DROP_UNKNOWN_ICMP6_TYPE;
	f->related = 1;
	return OK;
}

/* `quoted`: this is the packet that an ICMP error speaks of; of its L4 header only 8 bytes need be there (RFC 792). */
static __always_inline int parse_l4(const struct __sk_buff *skb, struct flow *f, bool quoted)
{
	struct icmp_start *icmp;
	struct tcp_start *tcp;
	struct ports *ports;

	switch (opaque(f->proto)) {
	case IPPROTO_TCP:
		if (!quoted) {
			tcp = header_at(skb, f->l4, sizeof(*tcp));
			if (unlikely(!tcp))
				return DROP_INVALID;
			f->tcp_flags = tcp->flags;
			f->opens = (tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
			f->sport = tcp->ports.src;
			f->dport = tcp->ports.dst;
			return OK;
		}
		/* fall through */
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		ports = header_at(skb, f->l4, sizeof(*ports));
		if (!ports)
			return DROP_INVALID;
		f->sport = ports->src;
		f->dport = ports->dst;
		return OK;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		icmp = header_at(skb, f->l4, sizeof(*icmp));
		if (!icmp)
			return DROP_INVALID;
		f->icmp_type = icmp->type;
		return f->proto == IPPROTO_ICMP ? parse_icmp4(icmp, f) : parse_icmp6(icmp, f);
	}
	return DROP_UNKNOWN_L4;
}

static __always_inline int parse_fragment(const struct __sk_buff *skb, struct flow *f, __be32 id)
{
	struct fragment_key key = { .src = f->src, .dst = f->dst, .id = id, .proto = addr_is_v4(&f->src) ? f->proto : 0 };
	struct fragment fresh = {}, *first;
	int verdict;

	if (f->fragment == LATER_FRAGMENT) {
		first = bpf_map_lookup_elem(&fragments, &key);
		if (!first)
			return DROP_FRAGMENT_NOT_FOUND;
		f->sport = first->sport;
		f->dport = first->dport;
		f->icmp_type = first->icmp_type;
		f->proto = first->proto;
		return OK;
	}
	verdict = parse_l4(skb, f, false);
	if (verdict != OK)
		return verdict;
	if (f->related) /* an error longer than a packet is nothing that a stack sends */
		return DROP_FRAGMENT_UNSUPPORTED;
	fresh.sport = f->sport;
	fresh.dport = f->dport;
	fresh.icmp_type = f->icmp_type;
	fresh.proto = f->proto;
	bpf_map_update_elem(&fragments, &key, &fresh, BPF_ANY);
	return OK;
}

static __always_inline int parse_sent(const struct __sk_buff *skb, const struct flow *error, struct flow *sent)
{
	__be32 id;
	int verdict = parse_ip(skb, error->l4 + sizeof(struct icmp_start), sent, &id);

	if (verdict == OK && sent->fragment == LATER_FRAGMENT)
		return DROP_FRAGMENT_UNSUPPORTED;
	if (verdict == OK)
		verdict = parse_l4(skb, sent, true);
	return verdict == OK && sent->related ? DROP_INVALID : verdict; /* no errors about errors */
}

static __always_inline void parse_quoted(const struct __sk_buff *skb, const struct flow *error)
{
	struct flow *quoted = quoted_flow();
	struct addr src;
	__be16 sport;

	if (!quoted)
		return;
	__builtin_memset(quoted, 0, sizeof(*quoted));
	if (parse_sent(skb, error, quoted) != OK)
		quoted->proto = 0;
	src = quoted->src;
	sport = quoted->sport;
	quoted->src = quoted->dst;
	quoted->sport = quoted->dport;
	quoted->dst = src;
	quoted->dport = sport;
}

/* What follows the IP header; `id` is a fragment's. */
static __always_inline int parse_transport(const struct __sk_buff *skb, struct flow *f, __be32 id)
{
	int verdict = unlikely(f->fragment) ? parse_fragment(skb, f, id) : parse_l4(skb, f, false);

	if (unlikely(f->related) && verdict == OK)
		parse_quoted(skb, f);
	return verdict;
}

static __always_inline int parse(struct __sk_buff *skb, struct flow *f)
{
	__be32 id = 0;
	int verdict;

	if (unlikely(skb->vlan_present)) /* pods have one link: a tag would take the packet to another one */
		return DROP_VLAN_FILTERED;
	if (unlikely(!make_linear(skb)))
		return DROP_INVALID;
	verdict = parse_ip(skb, ETH_HLEN, f, &id);
	return verdict == OK ? parse_transport(skb, f, id) : verdict;
}
