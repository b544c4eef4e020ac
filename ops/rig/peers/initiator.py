#!/usr/bin/python3
"""A second, unrelated IKEv2 initiator for the tests: Python's integers for MODP, `cryptography` for AES, scapy for ESP.

It shares no code with the gateway or with strongSwan. It logs in with a pre-shared key, asks for an address, sends echo
requests through ESP (protocol 50, or UDP port 4500 with --udp), asks for liveness and deletes the IKE SA again. Every
step prints one line; the exit status is 0 when all of them went well.
"""
import argparse
import hashlib
import hmac
import os
import socket
import struct
import sys
import time

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.ipsec import ESP, SecurityAssociation

MODP_2048 = int(
    "FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DDEF9519B3CD3A431B"
    "302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7EDEE386BFB5A899FA5AE9F24117C4B1FE6"
    "49286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F83655D23DCA3AD961C62F356208552BB9ED529077096966D"
    "670C354E4ABC9804F1746C08CA18217C32905E462E36CE3BE39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF695581718"
    "3995497CEA956AE515D2261898FA051015728E5A8AACAA68FFFFFFFFFFFFFFFF", 16)
SA, KE, IDI, IDR, AUTH, NONCE, NOTIFY, DELETE, TSI, TSR, SK, CP = 33, 34, 35, 36, 39, 40, 41, 42, 44, 45, 46, 47


def prf(key, data):
    return hmac.new(key, data, hashlib.sha256).digest()


def prf_plus(key, seed, length):
    out, block, n = b"", b"", 1
    while len(out) < length:
        block = prf(key, block + seed + bytes([n]))
        out, n = out + block, n + 1
    return out[:length]


def chain(payloads):
    """Payloads [(type, body)] with their generic headers; returns (first type, octets)."""
    out = b""
    for index, (_, body) in enumerate(payloads):
        following = payloads[index + 1][0] if index + 1 < len(payloads) else 0
        out += struct.pack("!BBH", following, 0, len(body) + 4) + body
    return (payloads[0][0] if payloads else 0), out


def unchain(kind, data):
    out = []
    while kind:
        following, _, length = struct.unpack_from("!BBH", data)
        if length < 4 or length > len(data):
            raise ValueError("a payload that lies about its length")
        out.append((kind, data[4:length]))
        kind, data = following, data[length:]
    return out


def first(payloads, kind):
    for k, body in payloads:
        if k == kind:
            return body
    return None


def notifies(payloads):
    return [struct.unpack_from("!H", body, 2)[0] for kind, body in payloads if kind == NOTIFY]


def transform(last, kind, ident, bits=None):
    attribute = struct.pack("!HH", 0x800E, bits) if bits else b""
    return struct.pack("!BBHBBH", 0 if last else 3, 0, 8 + len(attribute), kind, 0, ident) + attribute


def proposal(protocol, spi, transforms):
    body = b"".join(transform(i + 1 == len(transforms), *t) for i, t in enumerate(transforms))
    return struct.pack("!BBHBBBB", 0, 0, 8 + len(spi) + len(body), 1, protocol, len(spi), len(transforms)) + spi + body


class Peer:
    def __init__(self, options):
        self.o = options
        self.port = 4500 if options.udp else 500
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((options.local, self.port))
        self.sock.settimeout(3)
        self.spi_i, self.spi_r, self.mid = os.urandom(8), bytes(8), 0

    def exchange(self, packet):
        """Sends a request, retransmits it unchanged, returns the answer with this message ID."""
        marker = b"\0\0\0\0" if self.port == 4500 else b""
        for _ in range(4):
            self.sock.sendto(marker + packet, (self.o.gateway, self.port))
            end = time.time() + 3
            while time.time() < end:
                try:
                    data, _ = self.sock.recvfrom(65535)
                except socket.timeout:
                    break
                if marker and data[:4] != marker:
                    continue
                data = data[len(marker):]
                if len(data) >= 28 and data[:8] == self.spi_i and data[19] & 0x20 and data[20:24] == packet[20:24]:
                    return data
        raise SystemExit("no answer from the gateway")

    def header(self, kind, exchange, length):
        return self.spi_i + self.spi_r + struct.pack("!BBBBII", kind, 0x20, exchange, 0x08, self.mid, length)

    def init(self):
        private = int.from_bytes(os.urandom(64), "big")
        public = pow(2, private, MODP_2048).to_bytes(256, "big")
        self.ni = os.urandom(32)
        def nat(spi_r, address, port):
            return hashlib.sha1(self.spi_i + spi_r + socket.inet_aton(address) + struct.pack("!H", port)).digest()
        own_port = self.port + 1 if self.o.udp else self.port
        cookie = []
        while True:
            kind, body = chain(cookie + [
                (SA, proposal(1, b"", [(1, 12, 256), (2, 5), (3, 12), (4, 14)])),
                (KE, struct.pack("!HH", 14, 0) + public), (NONCE, self.ni),
                (NOTIFY, struct.pack("!BBH", 0, 0, 16388) + nat(bytes(8), self.o.local, own_port)),
                (NOTIFY, struct.pack("!BBH", 0, 0, 16389) + nat(bytes(8), self.o.gateway, self.port))])
            self.request = self.header(kind, 34, 28 + len(body)) + body
            answer = self.exchange(self.request)
            payloads = unchain(answer[16], answer[28:])
            demanded = [b for k, b in payloads if k == NOTIFY and struct.unpack_from("!H", b, 2)[0] == 16390]
            if not demanded:
                break
            print("cookie demanded")
            cookie = [(NOTIFY, demanded[0])]
        self.response, self.spi_r = answer, answer[8:16]
        self.nr = first(payloads, NONCE)
        peer = int.from_bytes(first(payloads, KE)[4:], "big")
        shared = pow(peer, private, MODP_2048).to_bytes(256, "big")
        skeyseed = prf(self.ni + self.nr, shared)
        keys = prf_plus(skeyseed, self.ni + self.nr + self.spi_i + self.spi_r, 32 * 7)
        self.sk_d, self.sk_ai, self.sk_ar, self.sk_ei, self.sk_er, self.sk_pi, self.sk_pr = (
            keys[i * 32:(i + 1) * 32] for i in range(7))
        print("IKE_SA_INIT done")

    def protected(self, exchange, payloads):
        """One exchange under SK; returns the payloads of the answer."""
        self.mid += 1
        kind, inner = chain(payloads)
        pad = -(len(inner) + 1) % 16
        inner += bytes(pad) + bytes([pad])
        iv = os.urandom(16)
        cipher = Cipher(algorithms.AES(self.sk_ei), modes.CBC(iv)).encryptor()
        body = iv + cipher.update(inner) + cipher.finalize()
        length = 28 + 4 + len(body) + 16
        packet = self.header(SK, exchange, length) + struct.pack("!BBH", kind, 0, 4 + len(body) + 16) + body
        packet += prf(self.sk_ai, packet)[:16]
        answer = self.exchange(packet)
        if not hmac.compare_digest(prf(self.sk_ar, answer[:-16])[:16], answer[-16:]):
            raise SystemExit("a wrong checksum from the gateway")
        following, _, _ = struct.unpack_from("!BBH", answer, 28)
        iv, body = answer[32:48], answer[48:-16]
        cipher = Cipher(algorithms.AES(self.sk_er), modes.CBC(iv)).decryptor()
        inner = cipher.update(body) + cipher.finalize()
        return unchain(following, inner[:-1 - inner[-1]])

    def auth(self):
        o = self.o
        identity = struct.pack("!B3x", 3) + o.id.encode()
        wanted = struct.pack("!B3x", 2) + o.remote_id.encode()
        key = prf(o.psk.encode(), b"Key Pad for IKEv2")
        proof = prf(key, self.request + self.nr + prf(self.sk_pi, identity))
        self.spi_in = os.urandom(4)
        def selectors(low, high):
            return struct.pack("!B3xBBHHH", 1, 7, 0, 16, 0, 65535) + socket.inet_aton(low) + socket.inet_aton(high)
        if o.esp == "aes-gcm":
            transforms = [(1, 20, 256), (5, 0)]
        else:
            transforms = [(1, 12, 256), (3, 12), (5, 0)]
        answer = self.protected(35, [
            (IDI, identity), (IDR, wanted), (AUTH, struct.pack("!B3x", 2) + proof),
            (CP, struct.pack("!B3xHHHH", 1, 1, 0, 3, 0)),
            (SA, proposal(3, self.spi_in, transforms)),
            (TSI, selectors("0.0.0.0", "255.255.255.255")), (TSR, selectors("0.0.0.0", "255.255.255.255"))])
        errors = [n for n in notifies(answer) if n < 16384]
        if errors:
            raise SystemExit(f"refused with notify {errors}")
        idr = first(answer, IDR)
        expected = prf(key, self.response + self.ni + prf(self.sk_pr, idr))
        if not hmac.compare_digest(first(answer, AUTH)[4:], expected):
            raise SystemExit("the gateway's AUTH payload is wrong")
        print("gateway proved", idr[4:].decode())
        config, self.address = first(answer, CP)[4:], None
        while config:
            kind, length = struct.unpack_from("!HH", config)
            if kind == 1:
                self.address = socket.inet_ntoa(config[4:8])
            config = config[4 + length:]
        chosen = first(answer, SA)
        self.spi_out = chosen[8:12]
        keymat = prf_plus(self.sk_d, self.ni + self.nr, 2 * (36 if o.esp == "aes-gcm" else 64))
        half = len(keymat) // 2
        print("IKE_AUTH done, address", self.address)
        def association(spi, keys, source, target):
            args = dict(spi=int.from_bytes(spi, "big"), tunnel_header=IP(src=source, dst=target))
            if o.esp == "aes-gcm":
                args.update(crypt_algo="AES-GCM", crypt_key=keys)
            else:
                args.update(crypt_algo="AES-CBC", crypt_key=keys[:32], auth_algo="SHA2-256-128", auth_key=keys[32:])
            if o.udp:
                args.update(nat_t_header=UDP(sport=4500, dport=4500))
            return SecurityAssociation(ESP, **args)
        self.out = association(self.spi_out, keymat[:half], o.local, o.gateway)
        self.into = association(self.spi_in, keymat[half:], o.gateway, o.local)

    def echo(self, count):
        o = self.o
        raw = None if o.udp else socket.socket(socket.AF_INET, socket.SOCK_RAW, 50)
        listen = raw or self.sock
        listen.settimeout(2)
        answered = 0
        for sequence in range(1, count + 1):
            inner = IP(src=self.address, dst=o.target) / ICMP(id=77, seq=sequence) / (b"data %d" % sequence)
            packet = self.out.encrypt(inner, seq_num=sequence)
            if raw:
                raw.sendto(bytes(packet[ESP]), (o.gateway, 0))
            else:
                self.sock.sendto(bytes(packet[UDP].payload), (o.gateway, 4500))
            end = time.time() + 2
            while time.time() < end:
                try:
                    data, _ = listen.recvfrom(65535)
                except socket.timeout:
                    break
                if raw:
                    got = IP(data)
                elif data[:4] == b"\0\0\0\0":
                    continue
                else:
                    got = IP(src=o.gateway, dst=o.local) / UDP(sport=4500, dport=4500) / ESP(data)
                    got = IP(bytes(got))
                if ESP not in got or got[ESP].spi != int.from_bytes(self.spi_in, "big"):
                    continue
                reply = self.into.decrypt(got)
                if ICMP in reply and reply[ICMP].type == 0 and reply[ICMP].seq == sequence:
                    answered += 1
                    break
        print(f"echo {answered} of {count}")
        if answered != count:
            raise SystemExit(1)

    def close(self):
        self.sock.settimeout(3)
        self.protected(37, [])
        print("liveness answered")
        self.protected(37, [(DELETE, struct.pack("!BBH", 1, 0, 0))])
        print("deleted")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("gateway", "local", "id", "remote-id", "psk", "target"):
        p.add_argument("--" + name, required=True)
    p.add_argument("--esp", choices=["aes-cbc", "aes-gcm"], default="aes-cbc")
    p.add_argument("--udp", action="store_true", help="pretend to be behind a NAT and use UDP encapsulation")
    p.add_argument("--count", type=int, default=5)
    peer = Peer(p.parse_args())
    peer.init()
    peer.auth()
    peer.echo(peer.o.count)
    peer.close()


if __name__ == "__main__":
    main()
