/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What an object was built from, for the loader: it refuses one that does not belong to the sources beside it. */
#pragma once
#include "kernel.h"

const char built_from[] SEC("source_hash") = SOURCE_HASH;
