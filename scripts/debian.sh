# Sourced by the other scripts: apt for a Debian release of one's choice, the system's own lists and packages untouched.

# apt_of SUITE DIRECTORY: an apt configuration DIRECTORY/apt/apt.conf for that suite, and its lists fetched. Mirror and keys are those
# that apt already uses for this release's `main`.
apt_of() {
    mkdir -p "$2/apt/lists/partial" "$2/apt/archives/partial"
    codename=$(. /etc/os-release && printf '%s\n' "$VERSION_CODENAME")
    # shellcheck disable=SC2016
    apt-get indextargets --format '$(REPO_URI) $(SOURCESENTRY)' \
        'Created-By: Packages' "Codename: $codename" 'Component: main' >"$2/apt/mirror"
    read -r mirror entry <"$2/apt/mirror" || return 1
    keys=$(sed -n -e 's/^Signed-By: *//p' -e 's/.*signed-by=\([^] ]*\).*/\1/p' "${entry%:*}" | head -n 1)
    for type in deb deb-src; do
        printf '%s\n' "$type ${keys:+[signed-by=$keys] }$mirror $1 main"
    done >"$2/apt/sources.list"
    cat >"$2/apt/apt.conf" <<CONF
Dir::Etc::sourcelist "$2/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State::lists "$2/apt/lists";
Dir::Cache "$2/apt";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
APT::Sandbox::User "";
CONF
    APT_CONFIG="$2/apt/apt.conf" apt-get update -q
}
