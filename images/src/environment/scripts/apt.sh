# Finds out what Debian packages come to, or installs them; run in a build step of an environment.
#
# apt.sh resolve|install REPORT PACKAGE…
set -eu
verb=$1 report=$2
shift 2
if ! command -v apt-get >/dev/null; then
    echo "the image has no apt-get: apt packages need one of Debian or Ubuntu" >&2
    exit 1
fi
archives=/tmp/run-in-container-archives
mkdir -p "$archives/partial"
# apt's own user is no user of every sandbox, and the sandbox holds more than it does.
get() {
    apt-get -q -o APT::Sandbox::User=root -o APT::Update::Error-Mode=any \
        -o "Dir::Cache::archives=$archives" -o Dpkg::Use-Pty=0 "$@"
}
get update
install() {
    get install --yes --no-install-recommends "$@"
}
case $verb in
resolve)
    # Packages that are to be fetched, and nothing else that apt says. Unasked it tells MD5 sums.
    install -q -o Acquire::ForceHash=SHA256 --print-uris "$@" >"$report.all"
    grep "^'" "$report.all" >"$report" || :
    rm "$report.all"
    ;;
install)
    install --download-only "$@"
    cd "$archives"
    for file in *.deb; do
        if ! grep -q "  $file\$" /dev/pipes/sha256 /dev/pipes/sha512; then
            echo "$file is needed now and was not when the environment was locked" >&2
            exit 1
        fi
    done
    for algorithm in sha256 sha512; do
        if [ -s "/dev/pipes/$algorithm" ]; then
            "${algorithm}sum" --check --strict --quiet "/dev/pipes/$algorithm"
        fi
    done
    cd /
    install --no-download "$@"
    ;;
esac
