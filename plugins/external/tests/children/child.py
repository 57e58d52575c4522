"""A child for tests that misbehaves as it is told: `child.py ROLE WHAT [FILE]`. Speaks BSON, with a codec of its own that knows
what the protocol's messages hold and keeps every event as the bytes that it is."""
import os
import signal
import struct
import subprocess
import sys
import time

role, what = sys.argv[1], sys.argv[2]
file = sys.argv[3] if len(sys.argv) > 3 else None
stdin, stdout = sys.stdin.buffer, sys.stdout.buffer


class Raw(bytes):
    """A document as its bytes."""


def decode(data, deep=2):
    """Documents `deep` levels down stay bytes."""
    out, at = {}, 4
    while data[at] != 0:
        kind, end = data[at], data.index(0, at + 1)
        name, at = data[at + 1:end].decode(), end + 1
        if kind == 2:
            n = struct.unpack_from("<i", data, at)[0]
            value, at = data[at + 4:at + 3 + n].decode(), at + 4 + n
        elif kind in (3, 4):
            n = struct.unpack_from("<i", data, at)[0]
            part = data[at:at + n]
            value, at = (decode(part, deep - 1) if deep > 1 else Raw(part)), at + n
            if kind == 4:
                value = list(value.values()) if isinstance(value, dict) else value
        elif kind == 8:
            value, at = data[at] == 1, at + 1
        elif kind == 16:
            value, at = struct.unpack_from("<i", data, at)[0], at + 4
        elif kind in (9, 17, 18):
            value, at = struct.unpack_from("<q", data, at)[0], at + 8
        elif kind == 1:
            value, at = struct.unpack_from("<d", data, at)[0], at + 8
        else:
            raise ValueError(kind)
        out[name] = value
    return out


def element(name, value):
    head = name.encode() + b"\0"
    if isinstance(value, bool):
        return b"\x08" + head + (b"\1" if value else b"\0")
    if isinstance(value, int):
        return b"\x12" + head + struct.pack("<q", value)
    if isinstance(value, str):
        text = value.encode() + b"\0"
        return b"\x02" + head + struct.pack("<i", len(text)) + text
    if isinstance(value, Raw):
        return b"\x03" + head + value
    if isinstance(value, bytes):  # a timestamp
        return b"\x11" + head + value
    if isinstance(value, list):
        return b"\x04" + head + encode({str(i): v for i, v in enumerate(value)})
    return b"\x03" + head + encode(value)


def encode(doc):
    body = b"".join(element(name, value) for name, value in doc.items())
    return struct.pack("<i", len(body) + 5) + body + b"\0"


def stamp(t, i=1):
    return struct.pack("<II", i, t)


def send(answer):
    stdout.write(encode(answer))
    stdout.flush()


def write(data):
    stdout.write(data)
    stdout.flush()


def once():
    """Whether this is the first time, over all children."""
    if os.path.exists(file):
        return False
    open(file, "w").close()
    return True


def note(line):
    with open(file, "a") as f:
        f.write(line + "\n")


def forever():
    while True:
        time.sleep(3600)


def position(n):
    return {"token": {"n": n}, "time": stamp(n + 1)}


def event(n, **more):
    out = {"op": "insert", "ns": "a.b", "time": stamp(n + 1), "key": {"_id": n}, "after": {"_id": n}}
    out.update(more)
    return {k: v for k, v in out.items() if v is not None}


def hello(ask):
    answer = {"id": ask["id"], "protocol": 1, "name": "child"}
    if what == "protocol-2":
        answer["protocol"] = 2
    elif what == "no-protocol":
        del answer["protocol"]
    elif what == "no-hello":
        sys.exit(7)
    elif what == "total":
        answer["ordering"] = "total"
    elif what == "raw":
        answer["raw"] = True
    elif what == "fickle":
        answer["ordering"] = "any" if once() else "total"
    elif what == "environment":
        note("\n".join(sorted(os.environ)))
    elif what == "orphan":
        note(str(subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL).pid))
    elif what in ("stubborn", "term"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN if what == "stubborn" else lambda *_: (note("term"), sys.exit()))
        note(str(os.getpid()))
    send(answer)


def misbehave(ask):
    """What goes wrong whatever is asked. True: it was answered."""
    n = ask["id"]
    if what == "crash" or (what == "crash-once" and once()):
        sys.exit(3)
    elif what == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hang" or (what == "hang-once" and once()):
        forever()
    elif what == "text":
        print("processing a secret event", flush=True)
        forever()
    elif what == "negative":
        write(b"\xff\xff\xff\xff")
        forever()
    elif what == "huge":
        write(struct.pack("<i", 100_000_000) + b"x" * 1000)
        forever()
    elif what == "half":
        write(encode({"id": n})[:-3])
        sys.exit(0)
    elif what == "no-bson":
        write(b"\x08\0\0\0\x7f\x7f\x7f\x7f")
        forever()
    elif what == "other-id":
        send({"id": n + 1000})
        forever()
    elif what == "no-id":
        send({"failed": []})
        forever()
    elif what == "no-stdin":
        os.close(0)
        forever()
    elif what == "no-stdout":
        os.close(1)
        forever()
    elif what == "chatter":
        print("a line\x1b[31m of it", file=sys.stderr, flush=True)
        return False
    elif what == "empty":
        send({"id": n})
    elif what.startswith("error-"):
        send({"id": n, "error": {"kind": what[6:], "message": "as told"}})
    else:
        return False
    return True


def transform(ask):
    events = ask["events"]
    if misbehave(ask):
        return
    verdicts = [True] * len(events)
    if what == "drop-odd":
        verdicts = [i % 2 == 0 for i in range(len(events))]
    elif what == "bad-third":
        verdicts = [{"bad": "not this one", "hint": "leave it"} if i % 3 == 2 else True for i in range(len(events))]
    elif what in ("replace", "raw"):
        verdicts = [{"event": e} for e in events]
    elif what == "swap":
        verdicts = [{"event": e} for e in reversed(events)]
    elif what == "foreign-id":
        verdicts = [{"event": event(999)} for _ in events]
    elif what == "no-event":
        verdicts = [{"event": {"op": "insert"}} for _ in events]
    elif what == "barrier":
        verdicts = [{"event": event(i, op="drop", key=None)} for i in range(len(events))]
    elif what == "neither":
        verdicts = [{"event": events[0], "bad": "x"}] * len(events)
    elif what == "number":
        verdicts = [1] * len(events)
    elif what == "more":
        verdicts += [True]
    elif what == "fewer":
        verdicts = verdicts[1:]
    send({"id": ask["id"], "events": verdicts})


def sink(ask):
    if ask["call"] == "ping" or misbehave(ask):
        if ask["call"] == "ping":
            send({"id": ask["id"]})
        return
    answer = {"id": ask["id"], "failed": []}
    failed = lambda *which: [{"index": i, "kind": "transient", "message": "later"} for i in which]
    if what == "beyond":
        answer["failed"] = failed(len(ask["events"]))
    elif what == "before":
        answer["failed"] = failed(-1)
    elif what == "twice":
        answer["failed"] = failed(0, 0)
    elif what == "kind":
        answer["failed"] = [{"index": 0, "kind": "bug", "message": "x"}]
    elif what == "too-many":
        answer["duplicates"] = len(ask["events"]) + 1
    elif what == "negative-count":
        answer["ignored"] = -1
    elif what == "fail-first":
        answer["failed"] = failed(0)
    elif what == "slow":
        time.sleep(0.2)
    if file and what not in ("crash-once", "hang-once"):
        note(f"{len(ask['events'])} {'upto' in ask}")
    send(answer)


at = 0


def source(ask):
    global at
    call, n = ask["call"], ask["id"]
    if call == "open":
        at = decode(ask["from"]["token"], 1)["n"] if ask["start"] == "position" else 0
        return send({"id": n, "position": position(at)})
    if call != "next":
        return send({"id": n})
    if misbehave(ask):
        return
    if what == "finish" and at >= 6:
        return send({"id": n, "finished": True})
    if what == "slow":
        time.sleep(0.05)
    events, end = [event(at), event(at + 1)], at + 2
    answer = {"id": n}
    if what == "backward":
        end = 0 if at else 2
    elif what == "repeat":
        events = [event(0)]
    elif what == "incomplete":
        events = [event(at), event(at + 1, key=None), event(at + 2), event(at + 3, after=None)]
        answer["bad"] = [{"before": 1, "message": "cannot read it", "ns": "a.c"}]
        end = at + 4
    elif what == "no-end":
        return send({"id": n, "events": events})
    elif what == "no-events":
        return send({"id": n, "end": position(end)})
    at = end
    send(dict(answer, events=events, end=position(end)))


while len(head := stdin.read(4)) == 4:
    size = struct.unpack("<i", head)[0]
    request = decode(head + stdin.read(size - 4), 2)
    if request["call"] == "hello":
        hello(request)
        if what == "unasked":
            send({"id": 77})
    else:
        {"transform": transform, "sink": sink, "source": source}[role](request)
if what == "stubborn":
    forever()
if what == "term":
    forever()
