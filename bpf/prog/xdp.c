// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Native XDP at an uplink: what goes through this node on its way between clients outside and backends behind the overlay.
 *
 *   from_wire  a known flow's packets to a service → the overlay; its answers from the overlay → the client
 *
 * Everything that needs a decision goes on to the hooks behind, which make flows and translations: first packets, source
 * ranges, backends on this node, errors, fragments, and outer packets over IPv6. Here they are only repeated, without an skb. */
#include "../lib/balance.h"
#include "../lib/frame.h"
#include "../lib/nat.h"
#include "../lib/sender.h"
#include "../lib/source_hash.h"
#include "../maps/metrics.h"

struct mac {
	__u16 w[ETH_ALEN / 2];
};

/* The frame is for this device, whose address comes with the way out. */
static __always_inline bool is_for(const struct xdp_md *ctx, const void *own)
{
	const struct mac *to = frame_at(ctx, 0, sizeof(struct ethhdr)), *mine = own;

	return to && to->w[0] == mine->w[0] && to->w[1] == mine->w[1] && to->w[2] == mine->w[2];
}

/* The way out to `dst` is the device that the frame came by and was meant for, its neighbour is known, and `length` fits. */
static __always_inline bool find_next_hop(struct xdp_md *ctx, const struct addr *src, const struct addr *dst, __u32 length,
					  struct ethhdr *eth)
{
	struct bpf_fib_lookup to = { .ifindex = ctx->ingress_ifindex, .tot_len = length };

	if (addr_is_v4(dst)) {
		to.family = AF_INET;
		to.ipv4_src = src->w[3];
		to.ipv4_dst = dst->w[3];
	} else {
		to.family = AF_INET6;
		__builtin_memcpy(to.ipv6_src, src, sizeof(*src));
		__builtin_memcpy(to.ipv6_dst, dst, sizeof(*dst));
	}
	if (!config.test && (bpf_fib_lookup(ctx, &to, sizeof(to), 0) != BPF_FIB_LKUP_RET_SUCCESS ||
			     to.ifindex != ctx->ingress_ifindex))
		return false;
	__builtin_memcpy(eth->h_dest, to.dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, to.smac, ETH_ALEN);
	eth->h_proto = addr_is_v4(dst) ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	return is_for(ctx, to.smac);
}

static __always_inline struct uplink *own_uplink(const struct xdp_md *ctx)
{
	__u32 ifindex = ctx->ingress_ifindex;

	return bpf_map_lookup_elem(&uplinks, &ifindex);
}

/* The known backend of a flow to a service that may still use it. */
static __always_inline struct lb_flow *find_flow(const struct flow *f)
{
	struct nat_key key = lb_flow_key(f, LB_TO_BACKEND);
	struct lb_flow *known = bpf_map_lookup_elem(&lb_flows, &key);
	struct lb_key at = service_key(f);
	struct lb_service *service;

	if (!known || f->opens || is_past(known->expires, ticks()))
		return NULL;
	service = find_service(&at, false);
	if (!service || !(service->flags & (LB_EXTERNAL | LB_ROUTABLE)) || service->flags & LB_SOURCE_RANGES)
		return NULL;
	return is_member(service->external_set, &known->addr, known->port) ? known : NULL;
}

static __always_inline struct nat_entry *find_translation(const struct flow *f, const struct ends *to_backend, const struct addr *own)
{
	struct nat_key key = {
		.src = f->src, .dst = to_backend->dst, .sport = f->sport, .dport = to_backend->ports.dst, .proto = f->proto,
		.side = NAT_OUT,
	};
	struct nat_entry *known = bpf_map_lookup_elem(&nat, &key);

	return known && addr_equal(&known->addr, own) ? known : NULL;
}

/* What leads the answers back is looked after once a tick. False: some of it is gone, and the hook behind makes it again. */
static __always_inline bool keep_way_back(const struct flow *f, const struct ends *to, __u32 expires)
{
	struct nat_key back = {
		.src = to->dst, .dst = to->src, .sport = to->ports.dst, .dport = to->ports.src, .proto = f->proto, .side = NAT_IN,
	};
	struct nat_entry *translation = bpf_map_lookup_elem(&nat, &back);
	struct nat_key key = answers_key(f, &to->dst, to->ports.dst);
	struct lb_flow *answers = bpf_map_lookup_elem(&lb_flows, &key);

	if (!translation || !is_translation_to(translation, &f->src, f->sport) || !answers || answers->port != f->dport ||
	    !addr_equal(&answers->addr, &f->dst))
		return false;
	refresh_translation(translation, expires);
	if (is_past(answers->expires, expires))
		answers->expires = expires;
	return true;
}

static __always_inline __u8 frame_ecn(const struct xdp_md *ctx, const struct flow *f)
{
	const __u8 *ip = frame_at(ctx, ETH_HLEN, 2);

	return ip ? ecn_in(ip, addr_is_v4(&f->dst) ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6)) : 0;
}

static __always_inline bool write_outer(struct xdp_md *ctx, const struct ethhdr *eth, __be32 from, __be32 to, __u32 vni, __u16 hash,
					__u8 ecn)
{
	__u32 inner = frame_end(ctx) - frame_start(ctx);
	struct outer *outer;

	if (bpf_xdp_adjust_head(ctx, -(int)sizeof(*outer)))
		return false;
	outer = frame_at(ctx, 0, sizeof(*outer));
	if (!outer)
		return false;
	outer->eth = *eth;
	outer->ip = (struct iphdr){
		.version = 4, .ihl = 5, .tos = outer_ecn(ecn), .ttl = OUTER_TTL, .protocol = IPPROTO_UDP, .saddr = from, .daddr = to,
		.tot_len = bpf_htons(inner + sizeof(*outer) - ETH_HLEN),
	};
	outer->ip.check = ipv4_checksum(&outer->ip);
	outer->udp = (struct udp){
		.ports = { bpf_htons(0x8000 | hash), config.tunnel_port },
		.length = bpf_htons(inner + sizeof(*outer) - ETH_HLEN - sizeof(outer->ip)),
	};
	outer->vxlan_flags = VXLAN_HAS_VNI;
	outer->vni = bpf_htonl(vni << 8);
	return true;
}

static __always_inline int to_backend(struct xdp_md *ctx, struct flow *f)
{
	__u32 length = frame_end(ctx) - frame_start(ctx) + sizeof(struct outer) - ETH_HLEN;
	struct uplink *uplink = own_uplink(ctx);
	struct lb_flow *known = find_flow(f);
	struct nat_entry *translation;
	struct ipcache_entry *where;
	struct addr own, node;
	struct ends to;
	struct ethhdr eth;
	__u32 expires;
	__u8 ecn;

	if (!known || !uplink)
		return XDP_PASS;
	own = addr_is_v4(&f->dst) ? uplink->v4 : uplink->v6;
	to.dst = known->addr;
	to.ports.dst = known->port;
	where = find_in_ipcache(&to.dst);
	if (!where || (where->flags & (IPCACHE_TUNNEL | IPCACHE_SKIP_TUNNEL)) != IPCACHE_TUNNEL)
		return XDP_PASS;
	node = where->tunnel;
	translation = find_translation(f, &to, &own);
	if (!translation || !addr_is_v4(&node) || !uplink->v4.w[3])
		return XDP_PASS;
	own = uplink->v4;
	if (!find_next_hop(ctx, &own, &node, length, &eth))
		return XDP_PASS;
	to.src = translation->addr;
	to.ports.src = translation->port;
	expires = lb_flow_expires(known, f);
	if (unlikely(known->expires != expires || translation->expires != expires) && !keep_way_back(f, &to, expires))
		return XDP_PASS;
	refresh_lb_flow(known, f);
	refresh_translation(translation, expires);
	f->src_id = identity_to_send(identity_of(&f->src), &f->src);
	ecn = frame_ecn(ctx, f);
	if (!write_ends(ctx, f, &to))
		return XDP_DROP;
	return write_outer(ctx, &eth, own.w[3], node.w[3], f->src_id, hash_flow(f, true) & 0x7fff, ecn) ? XDP_TX : XDP_DROP;
}

/* Whether a frame is the overlay's, for this node and from one that may send it, with a mark of congestion only where that is the
 * sender's own; its identity is checked as behind. */
static __always_inline bool read_outer(const struct xdp_md *ctx, const struct addr *own, struct flow *inner)
{
	struct outer *outer = frame_at(ctx, 0, sizeof(*outer) + ETH_HLEN);
	__u32 length = frame_end(ctx) - frame_start(ctx) - ETH_HLEN, vni;

	if (!outer || outer->eth.h_proto != bpf_htons(ETH_P_IP) || !is_plain((struct wrapping *)&outer->ip, length, own->w[3]) ||
	    (outer->ip.tos & ECN_MASK) == ECN_CE)
		return false;
	vni = bpf_ntohl(outer->vni) >> 8;
	return read_frame(ctx, sizeof(*outer), inner) && check_sender(inner, vni) == OK;
}

/* It ends here, and the hook behind says so. */
static __always_inline bool is_last_hop(const struct xdp_md *ctx, const struct flow *f)
{
	struct iphdr *ip = frame_at(ctx, sizeof(struct outer) + ETH_HLEN, sizeof(*ip));
	struct ipv6hdr *ip6;

	if (addr_is_v4(&f->dst))
		return !ip || ip->ttl <= 1;
	ip6 = frame_at(ctx, sizeof(struct outer) + ETH_HLEN, sizeof(*ip6));
	return !ip6 || ip6->hop_limit <= 1;
}

static __always_inline bool count_frames_hop(const struct xdp_md *ctx, const struct flow *f)
{
	struct iphdr *ip = frame_at(ctx, ETH_HLEN, sizeof(*ip));
	struct ipv6hdr *ip6;

	if (addr_is_v4(&f->dst))
		return ip && lower_ttl(ip);
	ip6 = frame_at(ctx, ETH_HLEN, sizeof(*ip6));
	return ip6 && lower_hop_limit(ip6);
}

static __always_inline int to_client(struct xdp_md *ctx, struct flow *f)
{
	struct nat_entry *translation = find_way_back(f);
	struct nat_key answers = lb_flow_key(f, LB_FROM_BACKEND);
	struct lb_flow *known;
	struct ethhdr eth, *at;
	struct ends to;

	if (!translation)
		return XDP_PASS;
	answers.dst = translation->addr;
	answers.dport = translation->port;
	known = bpf_map_lookup_elem(&lb_flows, &answers);
	if (!known)
		return XDP_PASS;
	to = (struct ends){ known->addr, translation->addr, { known->port, translation->port } };
	if (is_last_hop(ctx, f) || !find_next_hop(ctx, &to.src, &to.dst, 0, &eth))
		return XDP_PASS;
	keep_at_least(translation, ticks() + config.ct_any);
	refresh_lb_flow(known, f);
	if (bpf_xdp_adjust_head(ctx, sizeof(struct outer)))
		return XDP_PASS;
	at = frame_at(ctx, 0, sizeof(*at));
	if (!at)
		return XDP_DROP;
	*at = eth;
	return write_ends(ctx, f, &to) && count_frames_hop(ctx, f) ? XDP_TX : XDP_DROP;
}

static __always_inline int repeat(struct xdp_md *ctx, struct flow *f)
{
	struct uplink *uplink = own_uplink(ctx);

	if (!uplink || !read_frame(ctx, 0, f))
		return XDP_PASS;
	if (f->proto != IPPROTO_UDP || f->dport != config.tunnel_port)
		return to_backend(ctx, f);
	__builtin_memset(f, 0, sizeof(*f));
	if (!read_outer(ctx, &uplink->v4, f) || !(addr_equal(&f->dst, &uplink->v4) || addr_equal(&f->dst, &uplink->v6)))
		return XDP_PASS;
	return to_client(ctx, f);
}

static __always_inline void count_sent(const struct xdp_md *ctx)
{
	__u32 direction = INGRESS;
	struct count *n = bpf_map_lookup_elem(&forwarded, &direction);

	if (n) {
		n->packets++;
		n->bytes += frame_end(ctx) - frame_start(ctx);
	}
}

SEC("xdp/from_wire")
int from_wire(struct xdp_md *ctx)
{
	struct flow *f = new_flow(INGRESS);
	int verdict = f ? repeat(ctx, f) : XDP_PASS;

	if (verdict == XDP_TX)
		count_sent(ctx);
	return verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
