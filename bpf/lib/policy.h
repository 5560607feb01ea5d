/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What a policy set says about one packet. Precedence between rules was settled when the classes were compiled: here the
 * most specific row answers. */
#pragma once
#include "../maps/policy.h"
#include "flow.h"

#define ICMP_TYPE_PORT 256 /* an ICMP type is looked up as a port; type 0 must not read as "any" */

static __always_inline __be16 policy_port(const struct flow *f)
{
	if (f->proto == IPPROTO_ICMP || f->proto == IPPROTO_ICMPV6)
		return bpf_htons(ICMP_TYPE_PORT + f->icmp_type);
	return f->dport;
}

static __always_inline struct rule *find_rule(const struct peer *peer, const struct flow *f)
{
	struct class_range_key range = {
		CLASS_RANGE_EXACT + 16, { .class_id = peer->class_id, .protocol = f->proto, .port = policy_port(f) }
	};
	__u32 forms = peer->forms;
	struct rule *rule = NULL;

	if (forms & FORM_PORT)
		rule = bpf_map_lookup_elem(&classes, &range.key);
	if (!rule && forms & FORM_RANGE)
		rule = bpf_map_lookup_elem(&class_ranges, &range);
	range.key.port = 0;
	if (!rule && forms & FORM_PROTOCOL)
		rule = bpf_map_lookup_elem(&classes, &range.key);
	range.key.protocol = 0;
	if (!rule && forms & FORM_ANY)
		rule = bpf_map_lookup_elem(&classes, &range.key);
	return rule;
}

static __always_inline int policy_verdict(__u32 policy, enum direction direction, __u32 identity, const struct flow *f)
{
	struct peer_key key = { policy << 1 | (direction == INGRESS), identity };
	struct peer *peer;
	struct rule *rule;

	if (unlikely(!policy))
		return DROP_NO_POLICY;
	peer = bpf_map_lookup_elem(&peers, &key);
	if (!peer) {
		key.identity = 0;
		peer = bpf_map_lookup_elem(&peers, &key);
	}
	if (!peer)
		return DROP_POLICY;
	rule = find_rule(peer, f);
	if (!rule)
		return DROP_POLICY;
	if (unlikely(rule->action == RULE_DENY))
		return DROP_POLICY_DENY;
	/* What a rule asks for and nobody provides yet admits nothing. */
	if (unlikely(rule->auth))
		return DROP_AUTHENTICATION_REQUIRED;
	return unlikely(rule->proxy) ? DROP_PROXY_UNSUPPORTED : OK;
}
