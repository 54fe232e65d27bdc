/* SPDX-License-Identifier: GPL-2.0 */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM edu_accel

#if !defined(EDU_ACCEL_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define EDU_ACCEL_TRACE_H

#include <linux/tracepoint.h>

TRACE_EVENT(edu_copy,
	TP_PROTO(const struct device *dev, u32 handle, u32 length, int result),
	TP_ARGS(dev, handle, length, result),
	TP_STRUCT__entry(
		__string(device, dev_name(dev))
		__field(u32, handle)
		__field(u32, length)
		__field(int, result)
	),
	TP_fast_assign(
		__assign_str(device);
		__entry->handle = handle;
		__entry->length = length;
		__entry->result = result;
	),
	TP_printk("%s handle=%u length=%u result=%d",
		  __get_str(device), __entry->handle, __entry->length, __entry->result)
);

#endif

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH .
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE edu_accel_trace
#include <trace/define_trace.h>
