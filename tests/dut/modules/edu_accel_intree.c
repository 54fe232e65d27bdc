// SPDX-License-Identifier: GPL-2.0
/* The same driver as edu_accel, except that it claims to be in the kernel's tree. */
#include "edu_accel.c"

MODULE_INFO(intree, "Y");
