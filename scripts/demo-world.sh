#!/bin/bash
# A public network and a private one: guests of the first reach what is outside the host, by its address and in both
# versions of IP, are reached through a forward, and stop to when the network is public no more; a guest of the second
# reaches nothing. By the host's routing, and then by sockets of a daemon without any capability. The world is a
# network namespace of the demo's own, behind a veth; so is what the host's routing and rules are changed in. An ordinary
# user may run it; leaves nothing behind; exits 0 only if all of it was true.
set -uo pipefail
cd "$(dirname "$0")/.."
own_network=1
. scripts/demo-lib.sh

title "The world: a namespace with an HTTP server, behind a veth of this one"
namespace world
ip link set lo up
ip link add up0 type veth peer name up1
ip link set up1 netns "${space[world]}"
ip addr add 203.0.113.1/24 dev up0
ip addr add 2001:db8::1/64 dev up0 nodad
ip link set up0 up
inside world ip link set lo up
inside world ip addr add 203.0.113.2/24 dev up1
inside world ip addr add 2001:db8::2/64 dev up1 nodad
inside world ip link set up1 up
mkdir "$work/page"
echo "a page of the world" >"$work/page/index.html"
# Says on stderr who has asked, which is what the masquerade is seen by.
setsid nsenter --net="/proc/${space[world]}/ns/net" busybox httpd -f -vv -p '[::]:80' -h "$work/page" >/dev/null 2>"$work/asked" &
groups+=("$!")
disown
good "203.0.113.2 and 2001:db8::2, which know no route to any guest"

title "A daemon, a public network with two guests, a private one with one"
start_daemon --egress tun --egress-sysctl
run mvirt network create web --ipv4-subnet 10.1.0.0/24 --ipv6-prefix fd00:1::/64 --public --dns-mode names
run mvirt network create inner --ipv4-subnet 10.2.0.0/24 --ipv6-prefix fd00:2::/64
run mvirt nic create web --name web1
run mvirt nic create web --name web2
run mvirt nic create inner --name inner1
"$bin/mvirt" network get web | sed -n 's/^public  */  public: /p'
for name in web1 web2 inner1; do boot $name; done
for name in web1 web2 inner1; do
    ask $name 60 "" || give_up "$name did not boot: $answer$(cat "$work/$name.err")"
    ask $name 30 lease4 || give_up "$name got no DHCPv4 lease: $answer"
    address=$(field address) dns=$(field dns)
    ask $name 30 lease6 || give_up "$name got no DHCPv6 lease: $answer"
    good "$name has $address and $(field address)${dns:+, dns $dns}"
    [ $name = web1 ] && server=$dns
done

# fetch NAME ADDRESS: whether the guest gets the page.
fetch() {
    # By hand: the wget of a busybox without shared libraries looks up even addresses, and cannot.
    ask "$1" 20 "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 $2 80"
    grep -q '^a page of the world$' <<<"$answer"
}
# fetches NAME ADDRESS SOURCE: it does, and the world has seen it come from there.
fetches() {
    : >"$work/asked"
    fetch "$1" "$2" || return
    grep -qF "$3" "$work/asked"
}

title "The guests of the public network reach the world, and each other by name"
fetches web1 203.0.113.2 203.0.113.1 && good "web1 → http://203.0.113.2/, which sees 203.0.113.1" ||
    bad "web1: $answer$(cat "$work/asked")"
fetches web2 2001:db8::2 2001:db8::1 && good "web2 → http://[2001:db8::2]/, which sees 2001:db8::1" ||
    bad "web2: $answer$(cat "$work/asked")"
reach web1 203.0.113.2
ask web1 10 'traceroute -n -w 2 -q 1 203.0.113.2' && good "$(grep -c ms <<<"$answer") hops: the gateway, the host, the world" ||
    bad "traceroute: $answer"
ask web1 10 "nslookup -type=a web2.web.internal $server"
grep -q "10.1.0.2" <<<"$answer" && good "web1 asks for web2.web.internal, and is told 10.1.0.2" || bad "nslookup: $answer"

title "The guest of the private network reaches nothing"
fetch inner1 203.0.113.2 && bad "inner1 has fetched the page" || good "inner1 has no route to 203.0.113.2"
ask inner1 10 'ping -c 2 -W 1 10.1.0.1' && bad "inner1 has reached web1" || good "inner1 does not reach web1"

title "Public no more, and again"
run mvirt network update web --public=false
fetch web1 203.0.113.2 && bad "web1 has fetched the page" || good "web1 reaches the world no more"
run mvirt network update web --public
fetch web1 203.0.113.2 && good "web1 fetches the page again" || bad "web1: $answer"

title "The world reaches a guest through a forward"
run mvirt forward add --network web --listen tcp:203.0.113.1:8080 --to web1:80
ask web1 10 'mkdir /www && echo "a page of web1" >/www/index.html && httpd -p 80 -h /www' || bad "httpd: $answer"
# visits PORT PAGE: whether the world gets that page by a port of the host.
visits() {
    answer=$(printf 'GET / HTTP/1.0\r\n\r\n' | inside world busybox nc -w 5 203.0.113.1 "$1" 2>&1)
    grep -q "^$2$" <<<"$answer"
}
visits 8080 "a page of web1" && good "the world → http://203.0.113.1:8080/ is web1's page" || bad "the world: $answer"
"$bin/mvirt" egress | sed 's/^/  /'

title "The same networks, by a daemon without any capability"
end_daemon
daemon_as="setpriv --bounding-set -all --inh-caps -all"
start_daemon
"$bin/mvirt" network get web | sed -n 's/^public  */  public: /p'
run mvirt nic create web --name web3
run mvirt nic create inner --name inner2
for name in web3 inner2; do boot $name; done
for name in web3 inner2; do
    ask $name 60 "" || give_up "$name did not boot: $answer$(cat "$work/$name.err")"
    ask $name 30 lease4 || give_up "$name got no DHCPv4 lease: $answer"
    ask $name 30 lease6 || give_up "$name got no DHCPv6 lease: $answer"
done
fetches web3 203.0.113.2 203.0.113.1 && good "web3 → http://203.0.113.2/, which sees 203.0.113.1" ||
    bad "web3: $answer$(cat "$work/asked")"
fetches web3 2001:db8::2 2001:db8::1 && good "web3 → http://[2001:db8::2]/, which sees 2001:db8::1" ||
    bad "web3: $answer$(cat "$work/asked")"
fetch inner2 203.0.113.2 && bad "inner2 has fetched the page" || good "inner2 reaches nothing"
run mvirt forward add --network web --listen tcp:203.0.113.1:8081 --to web3:80
ask web3 10 'mkdir /www && echo "a page of web3" >/www/index.html && httpd -p 80 -h /www' || bad "httpd: $answer"
visits 8081 "a page of web3" && good "the world → http://203.0.113.1:8081/ is web3's page" || bad "the world: $answer"
"$bin/mvirt" egress | sed 's/^/  /'
finish
