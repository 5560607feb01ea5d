/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Services met by packets: of clients outside, and of pods whose sockets were not translated.
 *
 * A balanced flow is two entries: the one of the service's address says which backend it goes to, the one of the backend's
 * answers says which address they came to. Conntrack marks what was balanced, so others' answers cost no look-up. */
#pragma once
#include "deliver.h"
#include "lb.h"
#include "nat.h"
#include "verdict.h"

enum lb_side { LB_TO_BACKEND = 1, LB_FROM_BACKEND = 2 };

static __always_inline struct nat_key lb_flow_key(const struct flow *f, enum lb_side side)
{
	return (struct nat_key){
		.src = f->src, .dst = f->dst, .sport = f->sport, .dport = f->dport, .proto = f->proto, .side = side,
	};
}

static __always_inline struct lb_flow *find_lb_flow(const struct flow *f, enum lb_side side)
{
	struct nat_key key = lb_flow_key(f, side);

	return bpf_map_lookup_elem(&lb_flows, &key);
}

/* Streams live long, until a packet has ended this direction. */
static __always_inline __u32 lb_flow_expires(const struct lb_flow *entry, const struct flow *f)
{
	bool is_open = f->proto == IPPROTO_TCP && !entry->closed && !(f->tcp_flags & (TCP_FIN | TCP_RST));

	return ticks() + (is_open ? config.ct_tcp : config.ct_any);
}

/* Whether a tick has gone by. */
static __always_inline bool refresh_lb_flow(struct lb_flow *entry, const struct flow *f)
{
	__u32 expires = lb_flow_expires(entry, f);

	if (f->tcp_flags & (TCP_FIN | TCP_RST) && !entry->closed)
		entry->closed = 1;
	if (entry->expires == expires)
		return false;
	entry->expires = expires;
	return true;
}

static __always_inline __u32 mix(__u32 hash, __u32 word)
{
	hash ^= word * 0xcc9e2d51u;
	hash = hash << 13 | hash >> 19;
	return hash * 5 + 0xe6546b64u;
}

/* Equal on every node. With affinity the client's port does not count. */
static __always_inline __u32 hash_flow(const struct flow *f, bool with_port)
{
	__u32 hash = f->proto;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		hash = mix(hash, f->src.w[i]);
		hash = mix(hash, f->dst.w[i]);
	}
	hash = mix(hash, (__u32)(with_port ? f->sport : 0) << 16 | f->dport);
	hash ^= hash >> 16;
	hash *= 0x85ebca6bu;
	hash ^= hash >> 13;
	return hash;
}

static __always_inline __u32 choose_slot(const struct flow *f, const struct lb_service *service, struct lb_set set)
{
	struct lb_maglev_key key = { .set = set.id };
	struct lb_maglev_part *part;
	__u32 bucket;

	if (!(service->flags & LB_MAGLEV) || set.id != service->external_set || !config.maglev_size)
		return bpf_get_prandom_u32() % set.count;
	bucket = hash_flow(f, !(service->flags & LB_AFFINITY)) % config.maglev_size;
	key.part = bucket / MAGLEV_PART;
	part = bpf_map_lookup_elem(&lb_maglev, &key);
	return part ? part->slots[bucket % MAGLEV_PART] : bpf_get_prandom_u32() % set.count;
}

static __always_inline bool choose_backend(const struct flow *f, const struct lb_service *service, struct lb_set set,
					   struct lb_backend *to)
{
	struct lb_client_key who = { .client = f->src, .service = service->id };
	struct lb_backend *found;

	if (!set.count)
		return false;
	if (service->flags & LB_AFFINITY && recall_backend(service, set, &who, to))
		return true;
	found = find_slot(set, choose_slot(f, service, set));
	if (!found)
		return false;
	*to = *found;
	if (service->flags & LB_AFFINITY)
		remember_backend(&who, to);
	return true;
}

/* Whom the backend sees. A pod that is led to itself would take its own address for a forgery. */
static __always_inline struct addr client_seen(const struct flow *f, const struct addr *by)
{
	return f->direction == EGRESS && addr_equal(by, &f->src) ? service_loopback(&f->src) : f->src;
}

static __always_inline struct nat_key answers_key(const struct flow *f, const struct addr *by, __be16 port)
{
	return (struct nat_key){
		.src = *by, .dst = client_seen(f, by), .sport = port, .dport = f->sport, .proto = f->proto, .side = LB_FROM_BACKEND,
	};
}

/* What leads a backend's answers to the service's address lives as long as what led there, whether any come or not; where a full
 * map let go of it, it is made again. */
OWN_FUNCTION int keep_answers(__u64 by_first, __u64 by_last, __u32 port, __u32 expires)
{
	struct addr by = addr_from_words(by_first, by_last);
	struct flow *f = this_flow();
	struct lb_flow *known, back = {};
	struct nat_key key;

	if (!f)
		return DROP_INVALID;
	key = answers_key(f, &by, port);
	known = bpf_map_lookup_elem(&lb_flows, &key);
	if (known && known->port == f->dport && addr_equal(&known->addr, &f->dst)) {
		if (is_past(known->expires, expires))
			known->expires = expires;
		return OK;
	}
	back.addr = f->dst;
	back.port = f->dport;
	back.expires = expires;
	return bpf_map_update_elem(&lb_flows, &key, &back, BPF_ANY) ? DROP_NAT_NO_MAPPING : OK;
}

/* A stream's later packets stay where its first one went as long as that is a backend; then they are reset by another one. */
static __always_inline bool recall_flow(const struct flow *f, struct lb_set set, struct lb_backend *to)
{
	struct lb_flow *known = find_lb_flow(f, LB_TO_BACKEND);

	if (!known || is_past(known->expires, ticks()) || (f->opens && known->closed) ||
	    !is_member(set.id, &known->addr, known->port))
		return false;
	if (unlikely(refresh_lb_flow(known, f)))
		keep_answers(first_words(&known->addr), last_words(&known->addr), known->port, known->expires);
	to->addr = known->addr;
	to->port = known->port;
	return true;
}

static __always_inline int remember_flow(const struct flow *f, const struct lb_backend *to)
{
	struct lb_flow entry = { .addr = to->addr, .port = to->port };
	struct nat_key key = lb_flow_key(f, LB_TO_BACKEND);

	refresh_lb_flow(&entry, f);
	if (bpf_map_update_elem(&lb_flows, &key, &entry, BPF_ANY))
		return DROP_NAT_NO_MAPPING;
	key = answers_key(f, &to->addr, to->port);
	entry.addr = f->dst;
	entry.port = f->dport;
	entry.closed = 0;
	return bpf_map_update_elem(&lb_flows, &key, &entry, BPF_ANY) ? DROP_NAT_NO_MAPPING : OK;
}

static __always_inline struct lb_key service_key(const struct flow *f)
{
	return (struct lb_key){ .addr = f->dst, .port = f->dport, .proto = f->proto };
}

struct { /* a CPU; what new_lb_flow gives back */
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32);
	__type(value, struct lb_backend);
	__uint(max_entries, 1);
} chosen SEC(".maps");

static __always_inline struct lb_backend *chosen_backend(void)
{
	__u32 first = 0;

	return bpf_map_lookup_elem(&chosen, &first);
}

/* A backend for the first packet to a service, and the two entries that say so. The service's row in numbers: the set is the
 * external one where `flags` have LB_MAGLEV. */
OWN_FUNCTION int new_lb_flow(__u64 id_and_affinity, __u32 flags, __u32 set_id, __u32 count)
{
	struct lb_service service = {
		.id = id_and_affinity >> 32, .affinity_s = id_and_affinity, .flags = flags, .external_set = set_id,
	};
	struct lb_set set = { set_id, count };
	struct lb_backend *to = chosen_backend();
	struct flow *f = this_flow();

	if (!f || !to)
		return DROP_INVALID;
	if (!choose_backend(f, &service, set, to))
		return DROP_NO_BACKEND;
	return remember_flow(f, to);
}

/* Turns the packet towards a backend. */
static __always_inline int balance(struct __sk_buff *skb, struct flow *f, const struct lb_service *service, bool is_external)
{
	struct lb_set set = is_external ? external_set(service) : internal_set(service);
	struct lb_backend to = {};
	struct lb_backend *fresh;
	int verdict = OK;

	if (!recall_flow(f, set, &to)) {
		verdict = new_lb_flow((__u64)service->id << 32 | service->affinity_s,
				      is_external ? service->flags : service->flags & ~LB_MAGLEV, set.id, set.count);
		if (verdict != OK)
			return verdict;
		fresh = chosen_backend();
		if (!fresh)
			return DROP_INVALID;
		to = *fresh;
	}
	if (f->proto == IPPROTO_SCTP && to.port != f->dport) /* its checksum covers the ports, see nat.h */
		return DROP_NAT_UNSUPPORTED_PROTOCOL;
	verdict = rewrite_end(skb, DESTINATION, &to.addr, to.port);
	f->dst = to.addr;
	f->dport = to.port;
	f->balanced = 1;
	return verdict;
}

/* The client's ICMP error about an answer of a service goes to the backend that sent it; f->balanced tells whether one did. */
static __always_inline int balance_error(struct __sk_buff *skb, struct flow *f)
{
	struct flow *quoted = quoted_flow();
	struct lb_flow *known, to;

	if (!quoted)
		return OK;
	known = find_lb_flow(quoted, LB_TO_BACKEND);
	if (!known)
		return OK;
	to = *known;
	f->balanced = 1;
	return rewrite_error(skb, DESTINATION, &to.addr, to.port);
}

/* An answer, or an error about a question, gets the address to which its client spoke; f->balanced tells whether it had one. */
OWN_FUNCTION int restore_source(struct __sk_buff *skb)
{
	struct flow *f = this_flow(), *about;
	struct lb_flow *known, was;
	int verdict;

	if (!f)
		return OK;
	f->balanced = 0;
	about = f->related ? quoted_flow() : f;
	if (!about)
		return OK;
	known = find_lb_flow(about, LB_FROM_BACKEND);
	if (!known)
		return OK;
	if (f->related) {
		was = *known;
		f->balanced = 1;
		return rewrite_error(skb, SOURCE, &was.addr, was.port);
	}
	refresh_lb_flow(known, f);
	was = *known;
	verdict = rewrite_end(skb, SOURCE, &was.addr, was.port);
	f->src = was.addr;
	f->sport = was.port;
	f->balanced = 1;
	return verdict;
}

/* A connection past the service: what is left of an earlier one from the same port must not touch its answers. */
static __always_inline void forget_flow(const struct flow *f)
{
	struct nat_key answers = {
		.src = f->dst, .dst = f->src, .sport = f->dport, .dport = f->sport, .proto = f->proto, .side = LB_FROM_BACKEND,
	};

	bpf_map_delete_elem(&lb_flows, &answers);
}

/* After conntrack: of a connection that a client opened to a service. */
static __always_inline bool answers_service(const struct flow *f)
{
	return f->balanced && (f->reply || f->related);
}

static __always_inline bool can_be_balanced(const struct flow *f)
{
	return f->proto == IPPROTO_TCP || f->proto == IPPROTO_UDP || f->proto == IPPROTO_SCTP;
}

#define MARK_TRANSLATED 0x0300 /* upstream's MARK_MAGIC_SNAT_DONE: the uplink's hook leaves it as it is */

static __always_inline bool count_hop(struct __sk_buff *skb, bool v4)
{
	struct iphdr *ip;
	struct ipv6hdr *ip6;

	if (v4) {
		ip = header_at(skb, ETH_HLEN, sizeof(*ip));
		return ip && lower_ttl(ip);
	}
	ip6 = header_at(skb, ETH_HLEN, sizeof(*ip6));
	return ip6 && lower_hop_limit(ip6);
}

/* Towards an address outside, past the stack: it takes no packets from elsewhere that carry its own address as source. */
OWN_FUNCTION int leave_towards(struct __sk_buff *skb)
{
	struct bpf_fib_lookup to = { .ifindex = LOOPBACK }; /* as if sent from here: pods' devices do not forward IPv6 */
	struct flow *f = this_flow();
	long found;

	if (!f)
		return DROP_INVALID;
	if (addr_is_v4(&f->dst)) {
		to.family = AF_INET;
		to.ipv4_src = f->src.w[3];
		to.ipv4_dst = f->dst.w[3];
	} else {
		to.family = AF_INET6;
		__builtin_memcpy(to.ipv6_src, &f->src, sizeof(f->src));
		__builtin_memcpy(to.ipv6_dst, &f->dst, sizeof(f->dst));
	}
	if (!count_hop(skb, to.family == AF_INET)) /* two services may be each other's backends */
		return DROP_TTL_EXCEEDED;
	if (config.test) { /* what comes out must not depend on the routes of the one who tests */
		show_target(skb, LOOPBACK);
		return bpf_redirect(LOOPBACK, 0);
	}
	found = bpf_fib_lookup(skb, &to, sizeof(to), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS && found != BPF_FIB_LKUP_RET_NO_NEIGH)
		return DROP_FIB_FAILED;
	skb->mark = MARK_TRANSLATED;
	show_target(skb, to.ifindex);
	return bpf_redirect_neigh(to.ifindex, NULL, 0, 0);
}
