"""The means of every measurement, on CPUs, GPUs and hosts alike, with torch alone: processes that take turns, windows,
a probe of the machine, a memory meter, rounds, records."""
