// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What the node itself sends and receives.
 *
 *   from_host    egress of cilium_host: routes lead the node's packets for other nodes' pods there → the overlay
 *   to_netdev    egress of an uplink: pods' packets that leave the cluster get the uplink's address
 *   from_netdev  ingress of an uplink: answers to those → the pod
 *
 * On an uplink everything passes that is none of the pods' business, whatever it is.
 */
#include "../lib/authorise.h"
#include "../lib/deliver.h"
#include "../lib/identity.h"
#include "../lib/nat.h"
#include "../lib/source_hash.h"
#include "../lib/trace.h"

static __always_inline int leave_host(struct __sk_buff *skb, struct flow *f)
{
	struct ipcache_entry *remote = find_in_ipcache(&f->dst);

	f->src_id = IDENTITY_HOST;
	f->dst_id = remote ? remote->identity : identity_of_world(&f->dst);
	if (!remote || !(remote->flags & IPCACHE_TUNNEL))
		return DROP_NO_TUNNEL_ENDPOINT;
	return encapsulate(skb, remote, IDENTITY_HOST);
}

SEC("tc/from_host")
int from_host(struct __sk_buff *skb)
{
	struct flow f = { .direction = EGRESS };
	__be32 fragment_id;
	int verdict = make_linear(skb) ? parse_ip(skb, ETH_HLEN, &f, &fragment_id) : DROP_INVALID;

	if (verdict == OK)
		verdict = leave_host(skb, &f);
	return finish(skb, &f, verdict);
}

/* The overlay's own packets, which are most of what an uplink sees: nothing to do, as soon as that is known. */
static __always_inline bool is_overlay(const struct __sk_buff *skb, const struct flow *f)
{
	struct ports *ports;

	if (f->proto != IPPROTO_UDP || f->fragment == LATER_FRAGMENT)
		return false;
	ports = header_at(skb, f->l4, sizeof(*ports));
	return ports && ports->dst == config.tunnel_port;
}

/* The address that a packet of this family is masqueraded with on this device; false: none. */
static __always_inline bool uplink_address(const struct __sk_buff *skb, const struct flow *f, struct addr *to)
{
	__u32 ifindex = skb->ifindex;
	struct uplink *uplink = bpf_map_lookup_elem(&uplinks, &ifindex);

	if (!uplink)
		return false;
	*to = skb->protocol == bpf_htons(ETH_P_IP) ? uplink->v4 : uplink->v6;
	return to->w[0] || to->w[3];
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
static __always_inline bool is_answer(const struct flow *f)
{
	struct connection c = {};

	find_connection(f, ticks(), &c);
	return c.known && !f->opens && !sent_by_client(&c);
}

static __always_inline int leave_as_pod(struct __sk_buff *skb, struct flow *f, const struct endpoint *from, const struct addr *to)
{
	f->endpoint = from->id;
	f->src_id = from->identity;
	if (f->related)
		return masquerade_error(skb, f);
	if (is_excluded(&f->dst) || is_answer(f))
		return TC_ACT_OK;
	return masquerade(skb, f, to, false);
}

static __always_inline int leave_node(struct __sk_buff *skb, struct flow *f, __be32 fragment_id)
{
	struct endpoint *from;
	struct addr to;
	int verdict;

	if (is_overlay(skb, f) || !masquerades(skb) || !uplink_address(skb, f, &to))
		return TC_ACT_OK;
	from = bpf_map_lookup_elem(&endpoints, &f->src);
	if (!from && !addr_equal(&f->src, &to))
		return TC_ACT_OK;
	verdict = f->fragment ? parse_fragment(skb, f, fragment_id) : parse_l4(skb, f, false);
	if (from)
		return verdict == OK ? leave_as_pod(skb, f, from, &to) : verdict;
	if (verdict != OK || f->related || !port_in_range(f->sport))
		return TC_ACT_OK;
	return masquerade(skb, f, &to, true);
}

SEC("tc/to_netdev")
int to_netdev(struct __sk_buff *skb)
{
	struct flow f = { .direction = EGRESS };
	__be32 fragment_id = 0;
	int verdict;

	if (!make_linear(skb) || parse_ip(skb, ETH_HLEN, &f, &fragment_id) != OK)
		return TC_ACT_OK;
	verdict = leave_node(skb, &f, fragment_id);
	return verdict < 0 ? drop(skb, &f, verdict) : verdict;
}

/* A pod behind the overlay does not speak to us beside it: the source is forged. */
static __always_inline int check_outside(struct flow *f, const struct endpoint *to)
{
	struct ipcache_entry *from = find_in_ipcache(&f->src);

	f->src_id = from ? from->identity : identity_of_world(&f->src);
	f->dst_id = to->identity;
	f->endpoint = to->id;
	return from && from->flags & IPCACHE_TUNNEL && !(from->flags & IPCACHE_SKIP_TUNNEL) ? DROP_INVALID_SOURCE : TC_ACT_OK;
}

static __always_inline int answer_pod(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint *to = bpf_map_lookup_elem(&endpoints, &f->dst);
	int verdict;

	if (!to)
		return TC_ACT_OK;
	verdict = check_outside(f, to);
	if (verdict == OK)
		verdict = authorise(skb, f, end_of(NULL), end_of(to), false);
	return verdict == OK ? deliver_locally(skb, to) : verdict;
}

static __always_inline int enter_node(struct __sk_buff *skb, struct flow *f, __be32 fragment_id)
{
	struct endpoint *to;
	struct addr own;
	int verdict;

	if (is_overlay(skb, f))
		return TC_ACT_OK;
	if (!uplink_address(skb, f, &own) || !addr_equal(&f->dst, &own)) {
		to = bpf_map_lookup_elem(&endpoints, &f->dst);
		return to ? check_outside(f, to) : TC_ACT_OK;
	}
	if ((f->fragment ? parse_fragment(skb, f, fragment_id) : parse_l4(skb, f, false)) != OK)
		return TC_ACT_OK;
	verdict = unmasquerade(skb, f);
	if (verdict != OK || addr_equal(&f->dst, &own))
		return verdict;
	return answer_pod(skb, f);
}

SEC("tc/from_netdev")
int from_netdev(struct __sk_buff *skb)
{
	struct flow f = { .direction = INGRESS };
	__be32 fragment_id = 0;
	int verdict;

	if (!make_linear(skb) || parse_ip(skb, ETH_HLEN, &f, &fragment_id) != OK)
		return TC_ACT_OK;
	verdict = enter_node(skb, &f, fragment_id);
	return verdict < 0 ? drop(skb, &f, verdict) : verdict;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
