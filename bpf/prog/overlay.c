// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Ingress of the VXLAN device (collect_md): what another node's pods and host send → a pod here | this node's stack. */
#include "../lib/arrive.h"
#include "../lib/source_hash.h"
#include "../lib/trace.h"

/* Only for this node's own addresses: the overlay is no way to make the node a router. Answers to clients outside that came
 * by this node to a service go back to them. */
static __always_inline int enter_host(struct __sk_buff *skb, struct flow *f)
{
	struct ipcache_entry *own = find_in_ipcache(&f->dst);
	struct addr to = f->dst;
	int verdict;

	f->dst_id = own ? own->identity : identity_of_world(&f->dst);
	if (f->dst_id != IDENTITY_HOST)
		return DROP_UNROUTABLE;
	verdict = unmasquerade(skb, f);
	if (verdict != OK || addr_equal(&f->dst, &to))
		return verdict;
	verdict = restore_source(skb);
	return verdict == OK && (f->balanced || f->related) ? leave_towards(skb) : verdict;
}

static __always_inline int leave_overlay(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint *to;
	int verdict = identify_sender(skb, f);

	if (verdict != OK)
		return verdict;
	bpf_skb_change_type(skb, 0 /* PACKET_HOST: the inner MAC is not the VXLAN device's */);
	to = bpf_map_lookup_elem(&endpoints, &f->dst);
	return to ? arrive(skb, f, to) : enter_host(skb, f);
}

SEC("tc/from_overlay")
int from_overlay(struct __sk_buff *skb)
{
	struct flow *f = new_flow(INGRESS);
	int verdict;

	if (!f)
		return TC_ACT_SHOT;
	verdict = parse(skb, f);
	if (verdict == OK)
		verdict = leave_overlay(skb, f);
	return finish(skb, f, verdict);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
