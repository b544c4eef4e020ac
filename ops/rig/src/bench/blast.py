# Sends datagrams at a fixed rate for a time: ADDRESS PORT RATE SIZE SECONDS BURST. One call of the kernel for each burst
# (UDP_SEGMENT). What could not be sent in time is left out, never sent later; says so at the end.
import json, socket, sys, time

address, port = sys.argv[1], int(sys.argv[2])
rate, size, seconds, burst = float(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
out.connect((address, port))
if burst > 1:
    out.setsockopt(17, 103, size)  # SOL_UDP, UDP_SEGMENT
data = bytes(size) * burst
sent = left_out = refused = 0
start = time.perf_counter()
while True:
    now = time.perf_counter() - start
    if now >= seconds:
        break
    due = now * rate - sent - left_out
    if due < burst:
        time.sleep(min((burst - due) / rate, 0.01))
        continue
    if due > rate * 0.02 + burst:
        left_out += due - burst
    try:
        out.send(data)
    except OSError:
        refused += burst
    sent += burst
print(json.dumps({"sent": sent - refused, "refused": refused, "left_out": left_out, "seconds": now}))
