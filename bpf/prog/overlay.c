// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Ingress of the VXLAN device (collect_md): what another node's pods and host send → a pod here | this node's stack. */
#include "../lib/authorise.h"
#include "../lib/deliver.h"
#include "../lib/sender.h"
#include "../lib/source_hash.h"
#include "../lib/trace.h"

/* Only for this node's own addresses: the overlay is no way to make the node a router. */
static __always_inline int enter_host(struct __sk_buff *skb, struct flow *f)
{
	struct ipcache_entry *own = find_in_ipcache(&f->dst);

	f->dst_id = own ? own->identity : identity_of_world(&f->dst);
	return f->dst_id == IDENTITY_HOST ? TC_ACT_OK : DROP_UNROUTABLE;
}

static __always_inline int leave_overlay(struct __sk_buff *skb, struct flow *f)
{
	struct endpoint *to;
	int verdict = identify_sender(skb, f);

	if (verdict != OK)
		return verdict;
	if (bpf_map_lookup_elem(&endpoints, &f->src)) /* our own pods do not live behind the overlay */
		return DROP_INVALID_SOURCE;
	bpf_skb_change_type(skb, 0 /* PACKET_HOST: the inner MAC is not the VXLAN device's */);
	to = bpf_map_lookup_elem(&endpoints, &f->dst);
	if (!to)
		return enter_host(skb, f);
	f->dst_id = to->identity;
	f->endpoint = to->id;
	verdict = authorise(skb, f, end_of(NULL), end_of(to), true);
	return verdict == OK ? deliver_locally(skb, to) : verdict;
}

SEC("tc/from_overlay")
int from_overlay(struct __sk_buff *skb)
{
	struct flow f = { .direction = INGRESS };
	int verdict = parse(skb, &f);

	if (verdict == OK)
		verdict = leave_overlay(skb, &f);
	return finish(skb, &f, verdict);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
