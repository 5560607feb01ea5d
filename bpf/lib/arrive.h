/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What came through the overlay for a pod of this node, whoever took it out of its wrapping. */
#pragma once
#include "authorise.h"
#include "balance.h"
#include "deliver.h"
#include "sender.h"

/* The sender is known already. */
static __always_inline int arrive(struct __sk_buff *skb, struct flow *f, const struct endpoint *to)
{
	int verdict;

	f->dst_id = to->identity;
	f->endpoint = to->id;
	verdict = authorise(f, end_of(NULL), end_of(to), true);
	if (verdict == OK && answers_service(f))
		verdict = restore_source(skb);
	return verdict == OK ? deliver_locally(skb, to) : verdict;
}
