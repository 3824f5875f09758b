"""Uses a store through a client library of another language and says what it was answered."""

import sys

import etcd3

client = etcd3.client(host="127.0.0.1", port=int(sys.argv[1]), timeout=20)
is_ = client.transactions


def pairs(found):
    return [(meta.key.decode(), value.decode(), meta.version) for value, meta in found]


client.put("p/a", "1")
client.put("p/b", "2")
print(client.get("p/a")[0], client.get("p/none")[0])
print(pairs(client.get_prefix("p/", sort_order="descend")))
print(client.put_if_not_exists("p/a", "9"), client.put_if_not_exists("p/c", "3"))
print(client.replace("p/c", "3", "4"), client.replace("p/c", "3", "5"))
for wanted in ["1", "7"]:
    print(client.transaction(
        compare=[is_.value("p/a") == wanted, is_.version("p/a") > 0],
        success=[is_.put("p/a", "10"), is_.get("p/b")],
        failure=[is_.delete("p/b"), is_.get("p/a")],
    )[0])
print(pairs(client.get_prefix("p/")))
print(client.delete("p/a"), client.delete("p/a"), client.delete_prefix("p/").deleted)

lease = client.lease(60)
client.put("l/a", "x", lease=lease)
client.put("l/b", "x", lease=lease)
print(lease.granted_ttl, sorted(lease.keys), [answer.TTL for answer in lease.refresh()])
lease.revoke()
print(pairs(client.get_prefix("l/")))

first = client.put("w/a", "1").header.revision
client.put("w/a", "2")
client.delete("w/a")
events, cancel = client.watch_prefix("w/", start_revision=first)
for _ in range(3):
    event = next(events)
    print(type(event).__name__, event.key, event.value, event.version)
cancel()

with client.lock("held", ttl=20) as lock:
    print(lock.is_acquired(), client.lock("held", ttl=20).acquire(timeout=0.2))
print(client.lock("held", ttl=20).acquire(timeout=20))

try:
    client.get("p/a", revision=10**6)
except Exception as error:
    print(type(error).__name__)
