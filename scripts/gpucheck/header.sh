#!/bin/sh
# chrek's gpu-check: `sh gpu-check.run --help`. Made by scripts/gpu-check bundle; an archive follows.
set -eu
lines=0
if [ "$(uname -m)" != x86_64 ]; then
    echo "error: this bundle is for x86_64, and this machine is $(uname -m)" >&2
    exit 1
fi
place=/tmp
[ ! -d /var/tmp ] || place=/var/tmp
folder=$(mktemp -d "${TMPDIR:-$place}/chrek-gpu-check.XXXXXX")
trap 'rm -rf "$folder"' EXIT
tail -n "+$((lines + 1))" "$0" | tar -xzf - -C "$folder"
python=$folder/python/bin/python3
tree=${CHREK_GPU_CHECK_TREE:-$folder/tree}
echo "$tree" > "$folder/where"
if ! "$python" -c ''; then
    echo "error: programs in $folder cannot be run" >&2
    echo "  hint: name a folder on another file system in TMPDIR" >&2
    exit 1
fi
CHREK_LIBEXEC=$folder/libexec CHREK_GPU_CHECK_SEEN=$folder \
    "$python" -u "$tree/scripts/gpu-check" here "$@" &
child=$!
# Whoever stops this script stops the check, and this goes on to remove the folder.
trap 'kill -TERM "$child"' HUP INT TERM
status=0
wait "$child" || status=$?
while kill -0 "$child" 2> /dev/null; do
    status=0
    wait "$child" || status=$?
done
exit "$status"
