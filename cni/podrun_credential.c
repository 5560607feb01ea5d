/* SPDX-License-Identifier: Apache-2.0 */
/* Users and capabilities of a container, dropped the way container runtimes do: bounding set first, identity last. */
#define _GNU_SOURCE
#include "podrun.h"

#include <errno.h>
#include <grp.h>
#include <linux/capability.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* "UID:GID[:GROUP…]", all numbers. */
void parse_user(struct credential *credential, const char *text)
{
	char *end;
	credential->uid = (uid_t)strtoul(text, &end, 10);
	if (*end != ':')
		fail_text("-u wants UID:GID[:GROUP...]");
	credential->gid = (gid_t)strtoul(end + 1, &end, 10);
	while (*end == ':' && credential->n_groups < MAX_GROUPS)
		credential->groups[credential->n_groups++] = (gid_t)strtoul(end + 1, &end, 10);
	if (*end)
		fail_text("-u wants UID:GID[:GROUP...]");
}

static void drop_bounding_set(uint64_t keep)
{
	for (unsigned long capability = 0; capability < 64; capability++)
		if (!(keep >> capability & 1) && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) && errno != EINVAL)
			fail("drop capability"); /* EINVAL: above the kernel's last one */
}

void apply_credential(const struct credential *credential)
{
	uint64_t keep = credential->capabilities;
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2] = {
		{.effective = (uint32_t)keep, .permitted = (uint32_t)keep},
		{.effective = (uint32_t)(keep >> 32), .permitted = (uint32_t)(keep >> 32)},
	};
	drop_bounding_set(keep);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		fail("clear ambient capabilities");
	if (setgroups(credential->n_groups, credential->groups))
		fail("setgroups");
	if (setresgid(credential->gid, credential->gid, credential->gid))
		fail("setgid");
	if (setresuid(credential->uid, credential->uid, credential->uid))
		fail("setuid"); /* to another user: the kernel clears the permitted set */
	if (credential->uid == 0 && syscall(SYS_capset, &header, data))
		fail("capset");
	if (credential->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		fail("no_new_privs");
}
