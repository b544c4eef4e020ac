# Takes a part of the first core away, in slices of a millisecond and before everybody else: PART.
import os, sys, time

PERIOD = 0.001
busy = PERIOD * float(sys.argv[1])
os.sched_setaffinity(0, {0})
os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
at = time.perf_counter()
while True:
    while time.perf_counter() - at < busy:
        pass
    at += PERIOD
    now = time.perf_counter()
    # Whatever delayed it is not made up for.
    at = max(at, now + PERIOD - busy)
    time.sleep(at - now)
