/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* VXLAN (RFC 7348) over IPv4 put on and taken off by the programs, past the VXLAN device and the node's own stack.
 *
 * On the wire this is what the device sends. Whatever is not plain is left to the device, and so is every packet for which a
 * helper says no: an IPv6 underlay, fragments, packets too long for the way, checksums, addresses other than the node's. */
#pragma once
#include "../maps/nodes.h"
#include "flow.h"
#include "identity.h"

#define VXLAN_HAS_VNI bpf_htonl(0x08000000)
#define OUTER_TTL 64
#define ECN_MASK 3
#define ECN_ECT0 2
#define ECN_CE 3
#define SOURCE_PORT_MIN 32768 /* as the device's: net.ipv4.ip_local_port_range unless changed */
#define SOURCE_PORTS 28232
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8) /* Linux 6.3; the headers of Debian 12 do not have it */

struct udp { struct ports ports; __be16 length, sum; };

/* What is between the Ethernet header and the packet. */
struct wrapping {
	struct iphdr ip;
	struct udp udp;
	__be32 vxlan_flags, vni; /* the identity, in the upper 24 bits */
	struct ethhdr eth;
} __attribute__((packed));
ASSERT_SIZE(struct wrapping, 50);

static __always_inline __u16 ipv4_checksum(const struct iphdr *ip)
{
	const __u16 *word = (const void *)ip;
	__u32 sum = 0;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += word[i];
	sum = (sum & 0xffff) + (sum >> 16);
	return ~(sum + (sum >> 16));
}

static __always_inline __u8 ecn_in(const __u8 *ip, __be16 proto)
{
	return (proto == bpf_htons(ETH_P_IP) ? ip[1] : ip[1] >> 4) & ECN_MASK;
}

/* RFC 6040 4.1: what the outer header says of the inner one's mark. */
static __always_inline __u8 outer_ecn(__u8 inner)
{
	return inner == ECN_CE ? ECN_ECT0 : inner;
}

/* Of an IP header: whether its sender understands marks of congestion, and whether there is one. */
static __always_inline __u8 ecn_at(const struct __sk_buff *skb, __u32 off, __be16 proto)
{
	const __u8 *ip = header_at(skb, off, 2);

	return ip ? ecn_in(ip, proto) : 0;
}

/* IPv4 bytes of the longest packet that leaves here in the end: an offloaded one is cut up. 0: cannot tell, or too long. */
static __always_inline __u32 wrapped_length(const struct __sk_buff *skb, const struct flow *f)
{
	__u32 length = skb->len - ETH_HLEN, gso_size = skb->gso_size;
	struct tcp_start *tcp;

	if (length > 0xffff - sizeof(struct wrapping))
		return 0;
	if (gso_size && f->proto == IPPROTO_TCP) {
		tcp = header_at(skb, f->l4, sizeof(*tcp));
		if (!tcp)
			return 0;
		length = f->l4 - ETH_HLEN + (tcp->doff >> 4) * 4 + gso_size;
	} else if (gso_size) {
		length = f->l4 - ETH_HLEN + sizeof(struct udp) + gso_size;
	}
	return length + sizeof(struct wrapping);
}

/* What the wrapping says of its contents. */
struct contents {
	__u32 hash; /* of the flow: afterwards it would be that of an empty header */
	__be16 proto;
	__u8 ecn;
};

static __always_inline struct contents contents_of(struct __sk_buff *skb)
{
	return (struct contents){ bpf_get_hash_recalc(skb), skb->protocol, ecn_at(skb, ETH_HLEN, skb->protocol) };
}

/* False: the packet is as it was. */
static __always_inline bool make_room(struct __sk_buff *skb)
{
	return !bpf_skb_adjust_room(skb, sizeof(struct wrapping), BPF_ADJ_ROOM_MAC,
				    BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP |
				    BPF_F_ADJ_ROOM_ENCAP_L2(ETH_HLEN) | BPF_F_ADJ_ROOM_ENCAP_L2_ETH |
				    BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET);
}

static __always_inline int write_wrapping(struct __sk_buff *skb, __be32 to, __u32 identity, struct contents inner)
{
	struct { struct ethhdr eth; struct wrapping w; } __attribute__((packed)) *room = header_at(skb, 0, sizeof(*room));
	__u32 length = skb->len - ETH_HLEN, hash = inner.hash ^ inner.hash << 16; /* not a window onto the hash */

	if (!room)
		return DROP_WRITE_ERROR;
	__builtin_memset(room, 0, sizeof(*room)); /* outer MAC addresses come with the neighbour, inner ones are nobody's */
	room->eth.h_proto = bpf_htons(ETH_P_IP);
	room->w.ip.version = 4;
	room->w.ip.ihl = sizeof(struct iphdr) / 4;
	room->w.ip.tos = outer_ecn(inner.ecn);
	room->w.ip.tot_len = bpf_htons(length);
	room->w.ip.id = bpf_get_prandom_u32();
	room->w.ip.ttl = OUTER_TTL;
	room->w.ip.protocol = IPPROTO_UDP;
	room->w.ip.saddr = config.overlay_source;
	room->w.ip.daddr = to;
	room->w.ip.check = ipv4_checksum(&room->w.ip);
	room->w.udp.ports.src = bpf_htons(SOURCE_PORT_MIN + (__u16)((__u64)hash * SOURCE_PORTS >> 32));
	room->w.udp.ports.dst = config.tunnel_port;
	room->w.udp.length = bpf_htons(length - sizeof(struct iphdr));
	room->w.vxlan_flags = VXLAN_HAS_VNI;
	room->w.vni = bpf_htonl(identity << 8);
	room->w.eth.h_proto = inner.proto;
	return OK;
}

/* Plain VXLAN from a known node to this address, `length` bytes behind the Ethernet header, to which neither the node's stack nor
 * the device would object. */
static __always_inline bool is_plain(const struct wrapping *w, __u32 length, __be32 own)
{
	struct addr from = addr_from_v4(w->ip.saddr);

	if (w->ip.version != 4 || w->ip.ihl != 5 ||
	    w->ip.protocol != IPPROTO_UDP || w->udp.ports.dst != config.tunnel_port || w->ip.daddr != own ||
	    w->ip.frag_off & bpf_htons(IPV4_MORE | IPV4_OFFSET))
		return false;
	if (bpf_ntohs(w->ip.tot_len) != length || bpf_ntohs(w->udp.length) != length - sizeof(struct iphdr) || w->udp.sum ||
	    ipv4_checksum(&w->ip))
		return false;
	if (w->vxlan_flags != VXLAN_HAS_VNI || w->vni & bpf_htonl(0xff))
		return false;
	return bpf_map_lookup_elem(&nodes, &from);
}

/* The pod of this node to which the packet inside is addressed. */
static __always_inline struct endpoint *find_inner_endpoint(const struct __sk_buff *skb, __be16 inner_proto)
{
	struct addr dst;

	if (inner_proto == bpf_htons(ETH_P_IP)) {
		struct iphdr *ip = header_at(skb, ETH_HLEN + sizeof(struct wrapping), sizeof(*ip));

		if (!ip)
			return NULL;
		dst = addr_from_v4(ip->daddr);
	} else {
		struct ipv6hdr *ip = header_at(skb, ETH_HLEN + sizeof(struct wrapping), sizeof(*ip));

		if (!ip || inner_proto != bpf_htons(ETH_P_IPV6))
			return NULL;
		__builtin_memcpy(&dst, &ip->daddr, sizeof(dst));
	}
	return bpf_map_lookup_elem(&endpoints, &dst);
}

/* A large datagram that is still to be cut up would keep the kernel's mark of a tunnel, and be cut up as one. TCP's segments are
 * not: sockets take them whole. */
static __always_inline bool keeps_its_shape(const struct __sk_buff *skb, __be16 inner_proto)
{
	const __u8 *proto;

	if (likely(!skb->gso_size))
		return true;
	proto = header_at(skb, ETH_HLEN + sizeof(struct wrapping) +
				       (inner_proto == bpf_htons(ETH_P_IP) ? offsetof(struct iphdr, protocol) : offsetof(struct ipv6hdr, nexthdr)), 1);
	return proto && *proto == IPPROTO_TCP;
}

/* RFC 6040 4.2: the mark of a congested underlay reaches the pod. False: the one inside cannot bear it. */
static __always_inline bool can_take_mark(const struct __sk_buff *skb, const struct wrapping *w)
{
	return (w->ip.tos & ECN_MASK) != ECN_CE || ecn_at(skb, ETH_HLEN + sizeof(*w), w->eth.h_proto);
}

/* True: the wrapping is off. False: nothing has changed. */
static __always_inline bool unwrap(struct __sk_buff *skb, __be16 inner_proto, bool is_marked)
{
	__u64 flags = BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET;
	struct ethhdr *eth;

	if (inner_proto == bpf_htons(ETH_P_IPV6))
		flags |= ADJ_ROOM_DECAP_L3_IPV6;
	if (bpf_skb_adjust_room(skb, -(__s32)sizeof(struct wrapping), BPF_ADJ_ROOM_MAC, flags))
		return false;
	eth = header_at(skb, 0, sizeof(*eth));
	if (eth)
		eth->h_proto = inner_proto;
	if (is_marked)
		bpf_skb_ecn_set_ce(skb);
	return true;
}
