# What the scripts beside it share. To be sourced; puts the caller into the root of the clone, and
# makes $work, a directory that goes when the script ends.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
unset PYTHONPATH XENTFAST_ISA XENTFAST_NUM_THREADS
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1

heading() { printf '\n===== %s (after %d s)\n' "$*" "$SECONDS"; }

fail() {
    printf '%s\n' "$*" >&2
    exit 1
}

# The files that git knows, and new ones that it does not ignore.
copy_tree() {
    mkdir "$1"
    git ls-files -z --cached --others --exclude-standard |
        while IFS= read -r -d '' file; do
            if [[ -e $file ]]; then printf '%s\0' "$file"; fi
        done | tar --create --null --files-from=- | tar --extract --directory="$1"
}

# The same without the package, so that the tests can only find an installed one.
copy_tests() {
    copy_tree "$1"
    rm -r "$1/xentfast" "$1/src"
}

# The block of shell after the line `<!-- command: NAME -->` of the README.
readme_command() {
    awk -v marker="<!-- command: $1 -->" '
        $0 == marker { found = 1; next }
        found && /^```/ { if (inside) exit; inside = 1; next }
        inside' README.md | grep . || fail "README.md must have a command named $1"
}

# need PROGRAM PACKAGE: install Debian's package where the program is missing.
need() {
    if ! command -v "$1" >/dev/null; then
        apt-get -qq update && apt-get -qq install --no-install-recommends "$2" >/dev/null
    fi
}

certificates=/etc/ssl/certs/ca-certificates.crt

# debian_root SUITE DIR [debootstrap options]: a Debian of its own, which reaches the network as
# this machine does.
debian_root() {
    local suite=$1 root=$2
    shift 2
    need debootstrap debootstrap
    mkdir -p "$root"
    debootstrap --variant=minbase "$@" "$suite" "$root" >"$root.log" 2>&1 ||
        { tail "$root.log" >&2 && fail "debootstrap $suite failed"; }
    cp --dereference /etc/resolv.conf "$root/etc/resolv.conf"
    if [[ -e $certificates ]]; then cp --dereference "$certificates" "$root/etc/machine.crt"; fi
    # A mirror may lag behind; that must not stop the installation of a compiler.
    mkdir -p "$root/etc/apt/apt.conf.d"
    echo 'Acquire::Check-Valid-Until "false"; APT::Install-Recommends "false"; Dpkg::Use-Pty "0";' \
        >"$root/etc/apt/apt.conf.d/90ci"
}

# in_root DIR COMMAND...: as root of that Debian, with nothing of this environment.
in_root() {
    local root=$1 trust=()
    shift
    if [[ -e $root/etc/machine.crt ]]; then
        trust=(PIP_CERT=/etc/machine.crt GIT_SSL_CAINFO=/etc/machine.crt)
    fi
    unshare --mount --pid --fork --kill-child --mount-proc="$root/proc" \
        chroot "$root" env -i HOME=/root LANG=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        PIP_DISABLE_PIP_VERSION_CHECK=1 "${trust[@]}" "$@" </dev/null
}
