// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What the node itself sends and receives.
 *
 *   from_host    egress of cilium_host: routes lead the node's packets for other nodes' pods there → the overlay
 *   to_netdev    egress of an uplink: pods' packets that leave the cluster get the uplink's address, answers of the node's own
 *                backends that of their service
 *   from_netdev  ingress of an uplink: answers to those → the pod; what clients outside send to services → a backend;
 *                who asks the link for an announced address gets an answer
 *
 * On an uplink everything passes that is none of the pods' business, whatever it is.
 */
#include "../lib/arrive.h"
#include "../lib/identity.h"
#include "../lib/nat.h"
#include "../lib/neighbour.h"
#include "../lib/reject.h"
#include "../lib/source_hash.h"
#include "../lib/trace.h"

static __always_inline int leave_host(struct __sk_buff *skb, struct flow *f)
{
	struct ipcache_entry *remote = find_in_ipcache(&f->dst);

	/* What comes from elsewhere and is only routed through is not the node's. */
	f->src_id = skb->ingress_ifindex ? identity_to_send(identity_of(&f->src), &f->src) : IDENTITY_HOST;
	f->dst_id = remote ? remote->identity : identity_of_world(&f->dst);
	if (!remote || !(remote->flags & IPCACHE_TUNNEL))
		return DROP_NO_TUNNEL_ENDPOINT;
	return encapsulate(skb, f, remote, f->src_id, true);
}

SEC("tc/from_host")
int from_host(struct __sk_buff *skb)
{
	struct flow *f = new_flow(EGRESS);
	__be32 fragment_id;
	int verdict;

	if (!f)
		return TC_ACT_SHOT;
	verdict = make_linear(skb) ? parse_ip(skb, ETH_HLEN, f, &fragment_id) : DROP_INVALID;
	if (verdict == OK)
		verdict = leave_host(skb, f);
	return finish(skb, f, verdict);
}

/* The overlay's own packets, which are most of what an uplink sees, pass before anything else is asked. They have neither
 * options nor extension headers. */
static __always_inline bool is_overlay(const struct __sk_buff *skb)
{
	struct { struct iphdr ip; struct ports ports; } __attribute__((packed)) *v4;
	struct { struct ipv6hdr ip; struct ports ports; } __attribute__((packed)) *v6;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		v4 = header_at(skb, ETH_HLEN, sizeof(*v4));
		return v4 && v4->ip.ihl == 5 && v4->ip.protocol == IPPROTO_UDP && v4->ports.dst == config.tunnel_port &&
		       !(v4->ip.frag_off & bpf_htons(IPV4_OFFSET));
	}
	v6 = header_at(skb, ETH_HLEN, sizeof(*v6));
	return v6 && skb->protocol == bpf_htons(ETH_P_IPV6) && v6->ip.nexthdr == IPPROTO_UDP && v6->ports.dst == config.tunnel_port;
}

static __always_inline bool masquerades(const struct __sk_buff *skb)
{
	return skb->protocol == bpf_htons(ETH_P_IP) ? config.masquerade_ipv4 : config.masquerade_ipv6;
}

static __always_inline bool is_excluded(const struct addr *dst)
{
	struct prefix_key key = { 128, *dst };

	return bpf_map_lookup_elem(&masquerade_exclusions, &key);
}

/* Who asked the pod from outside without translation gets the answer without one. */
static __always_inline bool is_answer(const struct flow *f, const struct endpoint *from)
{
	struct connection c = {};

	find_connection(f, from->ifindex, ticks(), &c);
	return c.known && !f->opens && !sent_by_client(&c);
}

static __always_inline int leave_as_pod(struct __sk_buff *skb, struct flow *f, const struct endpoint *from, const struct addr *to)
{
	struct nat_entry *known;

	f->endpoint = from->id;
	f->src_id = from->identity;
	if (f->related)
		return masquerade_error(skb, f);
	if (is_excluded(&f->dst))
		return TC_ACT_OK;
	/* What has a translation keeps it, even when conntrack has forgotten the connection and the other side spoke first since. */
	known = known_translation(f, to);
	if (!known && is_answer(f, from))
		return TC_ACT_OK;
	return masquerade(skb, f, to, known, false, ticks() + config.ct_any);
}

static __always_inline int leave_node(struct __sk_buff *skb, struct flow *f, __be32 fragment_id)
{
	struct endpoint *from;
	struct addr to;
	int verdict;

	if (skb->mark == MARK_TRANSLATED)
		return TC_ACT_OK;
	from = bpf_map_lookup_elem(&endpoints, &f->src);
	verdict = parse_transport(skb, f, fragment_id);
	if (!from && verdict == OK && (can_be_balanced(f) || f->related)) {
		verdict = restore_source(skb);
		if (verdict != OK || f->balanced)
			return verdict;
	}
	if (!masquerades(skb) || !uplink_address(skb, &to) || (!from && !addr_equal(&f->src, &to)))
		return TC_ACT_OK;
	if (from)
		return verdict == OK ? leave_as_pod(skb, f, from, &to) : verdict;
	if (verdict != OK || f->related || !port_in_range(f->sport))
		return TC_ACT_OK;
	return masquerade(skb, f, &to, known_translation(f, &to), true, ticks() + config.ct_any);
}

SEC("tc/to_netdev")
int to_netdev(struct __sk_buff *skb)
{
	__be32 fragment_id = 0;
	struct flow *f;
	int verdict;

	if (is_overlay(skb) || unlikely(is_tagged(skb)))
		return TC_ACT_OK;
	f = new_flow(EGRESS);
	if (!f)
		return TC_ACT_SHOT;
	if (!make_linear(skb) || parse_ip(skb, ETH_HLEN, f, &fragment_id) != OK)
		return TC_ACT_OK;
	verdict = leave_node(skb, f, fragment_id);
	return verdict < 0 ? drop(skb, verdict) : verdict;
}

/* A pod behind the overlay does not speak to us beside it, nor do our own ones or the node itself from outside: such a source is
 * forged. Where the stack does not see a packet, it cannot refuse it. */
static __always_inline int check_outside(struct flow *f)
{
	struct ipcache_entry *from = find_in_ipcache(&f->src);

	f->src_id = from ? from->identity : identity_of_world(&f->src);
	if (!from)
		return OK;
	if (f->src_id == IDENTITY_HOST || (from->flags & IPCACHE_TUNNEL && !(from->flags & IPCACHE_SKIP_TUNNEL)))
		return DROP_INVALID_SOURCE;
	return identity_is_cluster(f->src_id) && bpf_map_lookup_elem(&endpoints, &f->src) ? DROP_INVALID_SOURCE : OK;
}

static __always_inline int check_outside_to(struct flow *f, const struct endpoint *to)
{
	f->dst_id = to->identity;
	f->endpoint = to->id;
	return check_outside(f);
}

/* The answer of a backend on another node. */
static __always_inline int answer_client(struct __sk_buff *skb, struct flow *f)
{
	int verdict = restore_source(skb);

	return verdict == OK && f->balanced ? leave_towards(skb) : verdict;
}

static __always_inline int answer_pod(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint *to = bpf_map_lookup_elem(&endpoints, &f->dst);
	int verdict;

	if (!to)
		return answer_client(skb, f);
	verdict = check_outside_to(f, to);
	if (verdict == OK)
		verdict = authorise(f, end_of(NULL), end_of(to), false);
	if (verdict == OK && answers_service(f))
		verdict = restore_source(skb);
	return verdict == OK ? deliver_locally(skb, to) : verdict;
}

static __always_inline bool may_use(const struct flow *f, const struct lb_service *service)
{
	struct lb_source_key key = { .prefixlen = 32 + 128, .service = service->id, .addr = f->src };
	bool is_listed;

	if (!(service->flags & LB_SOURCE_RANGES))
		return true;
	is_listed = bpf_map_lookup_elem(&lb_sources, &key);
	return is_listed != !!(service->flags & LB_SOURCE_RANGES_DENY);
}

/* To a backend on another node the packet goes with this node's address, so that its answer comes back here. Its translation lives
 * as long as the flow is known, not only while packets come. */
static __always_inline int pass_on(struct __sk_buff *skb, struct flow *f, const struct nat_key *to_backend)
{
	struct ipcache_entry *known = find_in_ipcache(&f->dst), to = {};
	struct lb_flow *flow = bpf_map_lookup_elem(&lb_flows, to_backend);
	__u32 expires = flow ? flow->expires : ticks() + config.ct_any;
	bool by_overlay;
	struct addr own;
	int verdict;

	if (known)
		to = *known;
	if (to.identity == IDENTITY_HOST)
		return TC_ACT_OK;
	by_overlay = to.flags & IPCACHE_TUNNEL && !(to.flags & IPCACHE_SKIP_TUNNEL);
	if (!by_overlay && f->proto == IPPROTO_UDP && f->dport == config.tunnel_port) /* nodes trust each other's */
		return DROP_ENCAPSULATION_PROHIBITED;
	if (!uplink_address(skb, &own))
		return DROP_NAT_NO_MAPPING;
	verdict = f->related ? masquerade_error(skb, f) : masquerade(skb, f, &own, known_translation(f, &own), false, expires);
	if (verdict != OK)
		return verdict;
	if (by_overlay)
		return encapsulate(skb, f, &to, identity_to_send(f->src_id, &f->src), false);
	if (!f->related)
		f->src = own;
	return leave_towards(skb);
}

/* What a client outside sends to a service; OK without f->balanced when it is to none. */
static __always_inline int choose_for_outside(struct __sk_buff *skb, struct flow *f)
{
	struct lb_key key = service_key(f);
	struct lb_service *service;

	if (f->related)
		return balance_error(skb, f);
	if (!can_be_balanced(f))
		return OK;
	service = find_service(&key, false);
	if (!service) {
		if (f->opens)
			forget_flow(f);
		return OK;
	}
	f->src_id = identity_of(&f->src);
	if (!(service->flags & (LB_EXTERNAL | LB_ROUTABLE)))
		return DROP_CLUSTER_ADDRESS;
	if (!may_use(f, service))
		return DROP_SOURCE_RANGE;
	return balance(skb, f, service, true);
}

static __always_inline int serve(struct __sk_buff *skb, struct flow *f)
{
	struct nat_key to_backend = lb_flow_key(f, LB_TO_BACKEND);
	int verdict = choose_for_outside(skb, f);
	struct endpoint *to;

	if (verdict != OK || !f->balanced)
		return verdict;
	verdict = check_outside(f);
	if (verdict != OK)
		return verdict;
	to = bpf_map_lookup_elem(&endpoints, &f->dst);
	if (!to)
		return pass_on(skb, f, &to_backend);
	f->dst_id = to->identity;
	f->endpoint = to->id;
	verdict = authorise(f, end_of(NULL), end_of(to), false);
	return verdict == OK ? deliver_locally(skb, to) : verdict;
}

static __always_inline int enter_node(struct __sk_buff *skb, struct flow *f, __be32 fragment_id)
{
	struct endpoint *to;
	struct addr own;
	bool is_parsed;
	int verdict;

	is_parsed = parse_transport(skb, f, fragment_id) == OK;
	if (config.l2_announcements && unlikely(!is_parsed) && is_solicitation(skb, f)) {
		verdict = answer_solicitation(skb);
		if (verdict != OK)
			return verdict;
	}
	if (is_parsed) {
		verdict = serve(skb, f);
		if (verdict != OK || f->balanced)
			return verdict;
	}
	if (!uplink_address(skb, &own) || !addr_equal(&f->dst, &own)) {
		to = bpf_map_lookup_elem(&endpoints, &f->dst);
		return to ? check_outside_to(f, to) : TC_ACT_OK;
	}
	if (!is_parsed)
		return TC_ACT_OK;
	verdict = unmasquerade(skb, f);
	if (verdict != OK || addr_equal(&f->dst, &own))
		return verdict;
	return answer_pod(skb, f);
}

/* The overlay's packets for pods, unless they are the VXLAN device's to take (lib/vxlan.h). */
static __always_inline int enter_wrapped(struct __sk_buff *skb)
{
	struct wrapping *w = header_at(skb, ETH_HLEN, sizeof(*w));
	struct endpoint *to;
	__be16 inner_proto;
	__u32 identity;
	struct flow *f;
	int verdict;
	bool is_marked;

	if (!config.overlay_source || !w || skb->pkt_type != 0 /* PACKET_HOST */ || skb->vlan_present ||
	    !is_plain(w, skb->len - ETH_HLEN, config.overlay_source) || !can_take_mark(skb, w))
		return TC_ACT_OK;
	identity = bpf_ntohl(w->vni) >> 8;
	inner_proto = w->eth.h_proto;
	is_marked = (w->ip.tos & ECN_MASK) == ECN_CE;
	to = find_inner_endpoint(skb, inner_proto);
	if (!to || !keeps_its_shape(skb, inner_proto) || !unwrap(skb, inner_proto, is_marked))
		return TC_ACT_OK;
	f = new_flow(INGRESS);
	if (!f)
		return TC_ACT_SHOT;
	verdict = parse(skb, f);
	if (verdict == OK)
		verdict = check_sender(f, identity);
	if (verdict == OK)
		verdict = arrive(skb, f, to);
	return finish(skb, f, verdict);
}

SEC("tc/from_netdev")
int from_netdev(struct __sk_buff *skb)
{
	__be32 fragment_id = 0;
	struct flow *f;
	int verdict;

	if (is_overlay(skb))
		return enter_wrapped(skb);
	/* A switch that does not know where a host is sends its packets to everybody: what is for another one is none of ours.
	 * What is tagged belongs to a device of its own. */
	if (unlikely(skb->pkt_type == OTHER_HOST || is_tagged(skb)))
		return TC_ACT_OK;
	f = new_flow(INGRESS);
	if (!f)
		return TC_ACT_SHOT;
	if (likely(make_linear(skb) && parse_ip(skb, ETH_HLEN, f, &fragment_id) == OK))
		verdict = opaque(enter_node(skb, f, fragment_id));
	else
		verdict = config.l2_announcements && skb->protocol == bpf_htons(ETH_P_ARP) ? answer_arp(skb) : TC_ACT_OK;
	if (verdict == DROP_NO_BACKEND) {
		drop(skb, verdict);
		return reject(skb) ? bpf_redirect(skb->ifindex, 0) : TC_ACT_SHOT;
	}
	return verdict < 0 ? drop(skb, verdict) : verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
