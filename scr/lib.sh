# shellcheck shell=bash
# What the scripts share; to be sourced.

# die TEXT...: end with one sentence about what is wrong and what to do.
die() {
	echo "${0##*/}: $*" >&2
	exit 1
}

as_root() { [[ $EUID == 0 ]] || die "must run as root: sudo $0"; }

# step TEXT COMMAND...: run it quietly with a running clock on a terminal; how long it took; its last lines if it fails.
step() {
	local text=$1 begin=$SECONDS log clock='' status=0
	shift
	log=$(mktemp)
	if [[ -t 1 ]]; then
		(while sleep 1; do printf '\r  %s ... %d s ' "$text" $((SECONDS - begin)); done) &
		clock=$!
		printf '  %s ... ' "$text"
	fi
	"$@" >"$log" 2>&1 || status=$?
	if [[ -n $clock ]]; then
		kill "$clock" 2>/dev/null || true
		wait "$clock" 2>/dev/null || true
		printf '\r'
	fi
	if ((status)); then
		printf '  %s: failed after %d s\n' "$text" $((SECONDS - begin))
		tail -n 25 "$log" | sed 's/^/    | /' >&2
	else
		printf '  %s: done in %d s\n' "$text" $((SECONDS - begin))
	fi
	rm -f "$log"
	return "$status"
}
