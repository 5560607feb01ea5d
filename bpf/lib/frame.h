/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Frames at XDP: reading them, and changing both ends of one with all its checksums. Only what is common is understood: no VLAN,
 * options, extension headers or fragments; the rest is left to the hooks that have an skb. */
#pragma once
#include "vxlan.h"

/* What is in front of the frame that VXLAN carries. */
struct outer {
	struct ethhdr eth;
	struct iphdr ip;
	struct udp udp;
	__be32 vxlan_flags, vni;
} __attribute__((packed));

static __always_inline void *frame_start(const struct xdp_md *ctx)
{
	void *at;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(at) : "r"(ctx), "i"(__builtin_offsetof(struct xdp_md, data)));
	return at;
}

static __always_inline void *frame_end(const struct xdp_md *ctx)
{
	void *at;

	asm volatile("%0 = *(u32 *)(%1 + %2)" : "=r"(at) : "r"(ctx), "i"(__builtin_offsetof(struct xdp_md, data_end)));
	return at;
}

/* NULL when the frame does not have `len` bytes at `off`, which is a constant wherever this is used. */
static __always_inline void *frame_at(const struct xdp_md *ctx, __u32 off, __u32 len)
{
	void *at = frame_start(ctx) + off;

	return at + len <= frame_end(ctx) ? at : NULL;
}

static __always_inline bool read_ipv4(const struct xdp_md *ctx, __u32 off, struct flow *f)
{
	struct iphdr *ip = frame_at(ctx, off, sizeof(*ip));

	if (!ip || ip->version != 4 || ip->ihl != 5 || ip->frag_off & bpf_htons(IPV4_MORE | IPV4_OFFSET))
		return false;
	f->src = addr_from_v4(ip->saddr);
	f->dst = addr_from_v4(ip->daddr);
	f->proto = ip->protocol;
	return true;
}

static __always_inline bool read_ipv6(const struct xdp_md *ctx, __u32 off, struct flow *f)
{
	struct ipv6hdr *ip = frame_at(ctx, off, sizeof(*ip));

	if (!ip || ip->version != 6)
		return false;
	__builtin_memcpy(&f->src, &ip->saddr, sizeof(f->src));
	__builtin_memcpy(&f->dst, &ip->daddr, sizeof(f->dst));
	f->proto = ip->nexthdr;
	return !addr_is_v4(&f->src) && !addr_is_v4(&f->dst);
}

static __always_inline bool read_transport(const struct xdp_md *ctx, __u32 off, struct flow *f)
{
	struct tcp_start *tcp;
	struct ports *ports;

	if (f->proto == IPPROTO_UDP) {
		ports = frame_at(ctx, off, sizeof(struct udphdr));
		if (!ports)
			return false;
	} else if (f->proto == IPPROTO_TCP) {
		tcp = frame_at(ctx, off, 20);
		if (!tcp)
			return false;
		f->tcp_flags = tcp->flags;
		f->opens = (tcp->flags & (TCP_SYN | TCP_ACK)) == TCP_SYN;
		ports = &tcp->ports;
	} else {
		return false;
	}
	f->sport = ports->src;
	f->dport = ports->dst;
	return true;
}

/* A TCP segment or UDP datagram whose Ethernet header is at `off`. */
static __always_inline bool read_frame(const struct xdp_md *ctx, __u32 off, struct flow *f)
{
	struct ethhdr *eth = frame_at(ctx, off, sizeof(*eth));

	if (!eth)
		return false;
	off += ETH_HLEN;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return read_ipv4(ctx, off, f) && read_transport(ctx, off + sizeof(struct iphdr), f);
	if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		return read_ipv6(ctx, off, f) && read_transport(ctx, off + sizeof(struct ipv6hdr), f);
	return false;
}

static __always_inline __sum16 folded(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	return ~((sum & 0xffff) + (sum >> 16));
}

struct ends {
	struct addr src, dst;
	struct ports ports;
};

static __always_inline struct ends ends_of(const struct flow *f)
{
	return (struct ends){ f->src, f->dst, { f->sport, f->dport } };
}

/* RFC 1624: an IPv4 address in its 16-byte form differs from another one as its four bytes do. */
static __always_inline void fix_transport(__sum16 *sum, const struct ends *from, const struct ends *to, bool is_udp)
{
	__s64 difference = bpf_csum_diff((void *)from, sizeof(*from), (void *)to, sizeof(*to), (__u16)~*sum);

	if (is_udp && !*sum) /* the sender computes none */
		return;
	*sum = folded(difference);
	if (is_udp && !*sum)
		*sum = 0xffff;
}

static __always_inline bool write_udp(const struct xdp_md *ctx, __u32 off, const struct ends *from, const struct ends *to)
{
	struct udphdr *udp = frame_at(ctx, off, sizeof(*udp));

	if (!udp)
		return false;
	udp->source = to->ports.src;
	udp->dest = to->ports.dst;
	fix_transport(&udp->check, from, to, true);
	return true;
}

static __always_inline bool write_tcp(const struct xdp_md *ctx, __u32 off, const struct ends *from, const struct ends *to)
{
	struct tcp_header { struct ports ports; __be32 seq, ack, flags; __sum16 sum; } *tcp = frame_at(ctx, off, sizeof(*tcp));

	if (!tcp)
		return false;
	tcp->ports = to->ports;
	fix_transport(&tcp->sum, from, to, false);
	return true;
}

static __always_inline bool write_ipv4(const struct xdp_md *ctx, const struct ends *from, const struct ends *to)
{
	struct iphdr *ip = frame_at(ctx, ETH_HLEN, sizeof(*ip));

	if (!ip)
		return false;
	ip->saddr = to->src.w[3];
	ip->daddr = to->dst.w[3];
	ip->check = folded(bpf_csum_diff((void *)from, offsetof(struct ends, ports), (void *)to, offsetof(struct ends, ports),
					 (__u16)~ip->check));
	return true;
}

static __always_inline bool write_ipv6(const struct xdp_md *ctx, const struct ends *to)
{
	struct ipv6hdr *ip = frame_at(ctx, ETH_HLEN, sizeof(*ip));

	if (!ip)
		return false;
	__builtin_memcpy(&ip->saddr, &to->src, sizeof(to->src));
	__builtin_memcpy(&ip->daddr, &to->dst, sizeof(to->dst));
	return true;
}

/* Gives a frame whose Ethernet header is at 0 the ends `to`; `f` has those it was read with. */
static __always_inline bool write_ends(const struct xdp_md *ctx, const struct flow *f, const struct ends *to)
{
	struct ends from = ends_of(f);
	bool v4 = addr_is_v4(&f->dst);
	__u32 off = ETH_HLEN + (v4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr));

	if (!(v4 ? write_ipv4(ctx, &from, to) : write_ipv6(ctx, to)))
		return false;
	return f->proto == IPPROTO_UDP ? write_udp(ctx, off, &from, to) : write_tcp(ctx, off, &from, to);
}
