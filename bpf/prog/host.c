// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* What the node itself sends and receives.
 *
 *   from_host   egress of cilium_host: routes lead the node's packets for other nodes' pods there → the overlay
 */
#include "../lib/deliver.h"
#include "../lib/identity.h"
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

char LICENSE[] SEC("license") = "Dual BSD/GPL";
