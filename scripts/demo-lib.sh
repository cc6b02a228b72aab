# What the chapters of the demo have in common: sourced by them, from the project's folder.

# Of a chapter with own_network=1: once more, as root of a namespace without any network but its own.
if [ -n "${own_network:-}" ] && [ -z "${MVIRT_DEMO_INSIDE:-}" ]; then
    export MVIRT_DEMO_INSIDE=1
    [ "$(id -u)" = 0 ] && exec unshare --net "$0" "$@"
    exec unshare --user --map-root-user --net "$0" "$@"
fi

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
bin=$target/release
guests=$target/guests
work=$(mktemp -d "${TMPDIR:-/tmp}/mvirt-demo.XXXXXX")
groups=()
verdict=0

cleanup() {
    trap - EXIT INT TERM
    local group
    for group in "${groups[@]}"; do kill -KILL -- "-$group" 2>/dev/null; done
    [ -n "${daemon:-}" ] && kill -TERM "$daemon" 2>/dev/null && wait "$daemon" 2>/dev/null
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

if [ -t 1 ]; then bold=$'\e[1m' green=$'\e[32m' red=$'\e[31m' plain=$'\e[0m'; else bold= green= red= plain=; fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
good() { printf '  %s✓%s %s\n' "$green" "$plain" "$*"; }
bad() {
    printf '  %s✗%s %s\n' "$red" "$plain" "$*"
    verdict=1
}
give_up() {
    bad "$@"
    echo "--- mvirt-net ---"
    tail -20 "$work/daemon.log"
    exit 1
}
run() {
    printf '  $ %s\n' "$*"
    "$bin/mvirt" "${@:2}" >"$work/last" 2>&1 || give_up "$(cat "$work/last")"
}
# value_of FIELD FILE: a field of a JSON object that mvirt printed.
value_of() { sed -n "s/^  \"$1\": \"\(.*\)\",\{0,1\}$/\1/p" "$2"; }

# namespace NAME: somebody else's network stack, until the end.
declare -A space to from pid
namespace() {
    mkfifo "$work/$1.hold"
    setsid unshare --net cat "$work/$1.hold" >/dev/null &
    space[$1]=$!
    groups+=("$!")
    disown
    exec {to[$1]}>"$work/$1.hold"
    until [ "$(readlink "/proc/${space[$1]}/ns/net")" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.02; done
}
inside() { nsenter --net="/proc/${space[$1]}/ns/net" "${@:2}"; }

# boot NAME: a guest on the vNIC of that name, its console on two pipes.
boot() {
    local name=$1
    mkfifo "$work/$name.in" "$work/$name.out"
    HOME=$work TMPDIR=/dev/shm LD_PRELOAD=$guests/uml-xstate.so setsid "$bin/mvirt" vm start "$name" --nic "$name" --vmm uml --memory 128M \
        --initramfs "$guests/uml.cpio.gz" --cmdline "uml_dir=$work/ quiet" <"$work/$name.in" >"$work/$name.out" 2>"$work/$name.err" &
    pid[$name]=$!
    groups+=("$!")
    # Else the shell says of each that it was killed.
    disown
    exec {to[$name]}>"$work/$name.in" {from[$name]}<"$work/$name.out"
}
# ask NAME SECONDS COMMAND: runs it in the guest; its output is in $answer, its status is ours.
ask() {
    local name=$1 seconds=$2 line
    answer=
    [ -n "$3" ] && echo "$3" >&"${to[$name]}"
    while IFS= read -r -t "$seconds" line <&"${from[$name]}"; do
        line=${line%$'\r'}
        case $line in
        '@@ ready') return 0 ;;
        '@@ '*) return "${line#@@ }" ;;
        *) answer+=$line$'\n' ;;
        esac
    done
    answer+="(no answer in $seconds s)"
    return 124
}
field() { sed -n "s/^$1 //p" <<<"$answer"; }

# reach FROM ADDRESS: four pings, all answered; the round trip times are told.
reach() {
    ask "$1" 20 "ping -c 4 -i 0.2 -W 2 $2"
    local status=$? rtt
    rtt=$(sed -n 's/^round-trip min.avg.max = //p' <<<"$answer")
    if [ $status = 0 ] && grep -q ' 0% packet loss' <<<"$answer"; then
        good "$1 → $2  min/avg/max $rtt"
    else
        bad "$1 → $2  $answer"
    fi
}

# start_daemon FLAGS…: the daemon with a folder of its own; mvirt finds it. $daemon_as is what runs it, if anything.
start_daemon() {
    RUST_LOG=${RUST_LOG:-info} ${daemon_as:-} "$bin/mvirt-net" --listen "unix:$work/api" --socket-dir "$work/sockets" --metadata-dir "$work/metadata" \
        "$@" 2>"$work/daemon.log" &
    daemon=$!
    export MVIRT_NET_SERVER=unix:$work/api
    for _ in $(seq 100); do
        [ -S "$work/api" ] && "$bin/mvirt" version >/dev/null 2>&1 && break
        sleep 0.05
    done
}

# end_daemon: by SIGTERM, which it has to end by well.
end_daemon() {
    kill -TERM "$daemon"
    wait "$daemon" || bad "mvirt-net ended with status $?"
    unset daemon
}

# finish: says whether all of it was true, and exits so.
finish() {
    end_daemon
    if [ $verdict = 0 ]; then
        printf '\n%sAll of it is true%s, in %d s.\n' "$green" "$plain" $(($(date +%s) - started))
    else
        printf '\n%sNot all of it is true.%s\n' "$red" "$plain"
    fi
    exit $verdict
}
started=$(date +%s)
