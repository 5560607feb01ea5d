// SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause
/* Services at the socket, for pods and for the host: connect and sendmsg turn a service's address into a backend's, recvmsg and
 * getpeername turn it back. What a connection costs is paid once; its packets are plain pod to pod traffic.
 *
 *   connect4/6, sendmsg4/6, recvmsg4/6, getpeername4/6    of every process of the node, by its cgroup
 *   post_bind4/6                                          nobody takes a node port's number on the host
 */
#include "../lib/lb.h"
#include "../lib/source_hash.h"

#define ALLOW 1
#define REFUSE 0
#define EHOSTUNREACH 113

static __always_inline bool is_on_host(void *ctx)
{
	return bpf_get_netns_cookie(ctx) == config.host_netns;
}

static __always_inline bool pick(struct bpf_sock_addr *ctx, const struct lb_service *service, struct lb_backend *chosen)
{
	struct lb_set set = internal_set(service);
	struct lb_client_key who = { .service = service->id };
	struct lb_backend *found;
	__u64 netns;

	if (!set.count)
		return false;
	if (service->flags & LB_AFFINITY) {
		netns = bpf_get_netns_cookie(ctx);
		who.client.w[0] = netns;
		who.client.w[1] = netns >> 32;
		if (recall_backend(service, set, &who, chosen))
			return true;
	}
	found = find_slot(set, bpf_get_prandom_u32() % set.count);
	if (!found)
		return false;
	*chosen = *found;
	if (service->flags & LB_AFFINITY)
		remember_backend(&who, chosen);
	return true;
}

static __always_inline void remember_origin(struct bpf_sock_addr *ctx, const struct lb_key *at, const struct lb_backend *to)
{
	struct lb_origin_key key = { .socket = bpf_get_socket_cookie(ctx), .addr = to->addr, .port = to->port };
	struct lb_key *known = bpf_map_lookup_elem(&lb_origins, &key);

	/* An update of an LRU map is dear, and datagrams to one service come many. */
	if (!known || known->port != at->port || !addr_equal(&known->addr, &at->addr))
		bpf_map_update_elem(&lb_origins, &key, at, BPF_ANY);
}

static __always_inline int translate(struct bpf_sock_addr *ctx, struct lb_key *at)
{
	struct lb_backend to = {};
	struct lb_service *service;
	bool picked;

	at->proto = ctx->protocol;
	if ((at->proto != IPPROTO_TCP && at->proto != IPPROTO_UDP) || (config.host_sockets_only && !is_on_host(ctx)))
		return ALLOW;
	service = find_service(at, is_on_host(ctx));
	if (!service)
		return ALLOW;
	picked = pick(ctx, service, &to);
	if (!picked) { /* its set may have been replaced since the look-up */
		service = find_service(at, is_on_host(ctx));
		picked = service && pick(ctx, service, &to);
	}
	if (!picked) {
		bpf_set_retval(-EHOSTUNREACH);
		return REFUSE;
	}
	remember_origin(ctx, at, &to);
	at->addr = to.addr;
	at->port = to.port;
	return ALLOW;
}

static __always_inline int restore(struct bpf_sock_addr *ctx, struct lb_key *from)
{
	struct lb_origin_key key = { .socket = bpf_get_socket_cookie(ctx), .addr = from->addr, .port = from->port };
	struct lb_key *was = bpf_map_lookup_elem(&lb_origins, &key);

	if (was) {
		from->addr = was->addr;
		from->port = was->port;
	}
	return ALLOW;
}

/* `user_port` holds the port in network order in its lower half; the kernel wants fields written one by one. */
#define HOOK4(name, action)                                                                                            \
	SEC("cgroup/" #name)                                                                                           \
	int name(struct bpf_sock_addr *ctx)                                                                            \
	{                                                                                                              \
		struct lb_key at = { .addr = addr_from_v4(ctx->user_ip4), .port = ctx->user_port };                    \
		int verdict = action(ctx, &at);                                                                        \
                                                                                                                       \
		ctx->user_ip4 = at.addr.w[3];                                                                          \
		ctx->user_port = at.port;                                                                              \
		return verdict;                                                                                        \
	}
#define HOOK6(name, action)                                                                                            \
	SEC("cgroup/" #name)                                                                                           \
	int name(struct bpf_sock_addr *ctx)                                                                            \
	{                                                                                                              \
		struct lb_key at = { .port = ctx->user_port };                                                         \
		int verdict;                                                                                           \
                                                                                                                       \
		at.addr.w[0] = ctx->user_ip6[0];                                                                       \
		at.addr.w[1] = ctx->user_ip6[1];                                                                       \
		at.addr.w[2] = ctx->user_ip6[2];                                                                       \
		at.addr.w[3] = ctx->user_ip6[3];                                                                       \
		verdict = action(ctx, &at);                                                                            \
		ctx->user_ip6[0] = at.addr.w[0];                                                                       \
		ctx->user_ip6[1] = at.addr.w[1];                                                                       \
		ctx->user_ip6[2] = at.addr.w[2];                                                                       \
		ctx->user_ip6[3] = at.addr.w[3];                                                                       \
		ctx->user_port = at.port;                                                                              \
		return verdict;                                                                                        \
	}

HOOK4(connect4, translate)
HOOK4(sendmsg4, translate)
HOOK4(recvmsg4, restore)
HOOK4(getpeername4, restore)
HOOK6(connect6, translate)
HOOK6(sendmsg6, translate)
HOOK6(recvmsg6, restore)
HOOK6(getpeername6, restore)

static __always_inline bool is_node_port(const struct addr *any, const struct bpf_sock *ctx)
{
	struct lb_key key = { .addr = *any, .port = bpf_htons(ctx->src_port), .proto = ctx->protocol };

	return bpf_map_lookup_elem(&lb_services, &key) != NULL;
}

static __always_inline int check_bind(struct bpf_sock *ctx)
{
	struct addr v4 = addr_from_v4(0), v6 = {};

	if (!config.protect_node_ports || !is_on_host(ctx))
		return ALLOW;
	if (is_node_port(&v4, ctx)) /* a socket of IPv6 may listen for IPv4 as well */
		return REFUSE;
	return ctx->family == AF_INET6 && is_node_port(&v6, ctx) ? REFUSE : ALLOW;
}

SEC("cgroup/post_bind4")
int post_bind4(struct bpf_sock *ctx)
{
	return check_bind(ctx);
}

SEC("cgroup/post_bind6")
int post_bind6(struct bpf_sock *ctx)
{
	return check_bind(ctx);
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
