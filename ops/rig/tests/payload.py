# Payloads that can be told to be whole and in order, for tests/payload.rs:
#   datagrams-to ADDRESS PORT FLOWS COUNT   each flow from a socket of its own, bursts (UDP_SEGMENT) and single datagrams
#   datagrams-at PORT                       counts them until the last says so
#   stream-to ADDRESS PORT OCTETS           one TCP stream, and its digest
#   stream-at PORT                          the digest of one
import hashlib, json, random, socket, struct, sys, time, zlib

HEAD = struct.Struct("!HIHI")
LAST = 0xFFFF


def datagram(flow, number, body):
    return HEAD.pack(flow, number, len(body), zlib.crc32(body)) + body


def datagrams_to(address, port, flows, count):
    source = random.Random(7)
    sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(flows)]
    for one in sockets:
        one.connect((address, port))
    numbers = [0] * flows
    sent = 0
    while sent < count:
        flow = source.randrange(flows)
        # Flows of even numbers send bursts of one size, the others whatever comes.
        burst = source.randrange(2, 40) if flow % 2 == 0 else 1
        size = source.randrange(8, 1300)
        parts = []
        for _ in range(burst):
            parts.append(datagram(flow, numbers[flow], source.randbytes(size)))
            numbers[flow] += 1
        one = sockets[flow]
        if burst > 1:
            one.sendmsg(parts, [(17, 103, struct.pack("=H", len(parts[0])))])  # SOL_UDP, UDP_SEGMENT
        else:
            one.send(parts[0])
        sent += burst
        time.sleep(0.0003)
    try:
        for _ in range(20):
            time.sleep(0.05)
            sockets[0].send(datagram(LAST, 0, b""))
    except ConnectionRefusedError:
        pass  # the other end has heard it
    print(json.dumps({"sent": sent}))


def datagrams_at(port):
    incoming = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    incoming.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
    incoming.bind(("0.0.0.0", port))
    incoming.settimeout(60)
    print("ready", flush=True)
    highest, counts = {}, {"received": 0, "damaged": 0, "reordered": 0, "duplicated": 0}
    while True:
        data = incoming.recv(65536)
        flow, number, length, checksum = HEAD.unpack_from(data)
        body = data[HEAD.size:]
        if flow == LAST and length == 0:
            break
        counts["received"] += 1
        if len(body) != length or zlib.crc32(body) != checksum:
            counts["damaged"] += 1
            continue
        before = highest.get(flow, -1)
        counts["reordered"] += number < before
        counts["duplicated"] += number == before
        highest[flow] = max(number, before)
    print(json.dumps(counts))


def stream_to(address, port, octets):
    out = socket.create_connection((address, port), timeout=60)
    source, digest = random.Random(9), hashlib.sha256()
    while octets > 0:
        data = source.randbytes(min(octets, source.randrange(1, 200_000)))
        digest.update(data)
        out.sendall(data)
        octets -= len(data)
    out.shutdown(socket.SHUT_WR)
    out.recv(1)
    print(json.dumps({"digest": digest.hexdigest()}))


def stream_at(port):
    listener = socket.create_server(("0.0.0.0", port))
    listener.settimeout(60)
    print("ready", flush=True)
    stream, _ = listener.accept()
    digest = hashlib.sha256()
    while data := stream.recv(1 << 20):
        digest.update(data)
    print(json.dumps({"digest": digest.hexdigest()}))


words = sys.argv[2:]
{
    "datagrams-to": lambda: datagrams_to(words[0], int(words[1]), int(words[2]), int(words[3])),
    "datagrams-at": lambda: datagrams_at(int(words[0])),
    "stream-to": lambda: stream_to(words[0], int(words[1]), int(words[2])),
    "stream-at": lambda: stream_at(int(words[0])),
}[sys.argv[1]]()
