#!/bin/sh
# Build a guest image unless what was built came of the same recipe; print where it is.
#
#   built.sh NAME        a folder beside this file, such as `tiny`
#
# A recipe is known by its content: the files of its folder and those it shares with others. Two
# that build at once wait for each other.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
name=$1
[ -x "$here/$name/build.sh" ] || { echo "$0: there is no recipe $name" >&2; exit 2; }
mkdir -p "$here/build"
image=$here/build/$name.qcow2
recipe=$(cd "$here" && find "$name" resize -type f -printf '%m %p\n' -exec sha256sum {} + |
	sort | sha256sum)
exec 9>"$here/build/$name.lock"
flock 9
if [ ! -e "$image" ] || [ "$(cat "$image.recipe" 2>/dev/null)" != "$recipe" ]; then
	"$here/$name/build.sh" "$image" >&2
	echo "$recipe" >"$image.recipe"
fi
echo "$image"
