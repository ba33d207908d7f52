# Goal: packages are built, listed and unpacked, with the syncs and renames of a package manager.
# Needs: dpkg dpkg-deb
# Runs: default tiny
# Differs: root/var/* -- times of the run
job() {
    local version
    for version in 1 2; do
        rm -rf package
        mkdir -p package/DEBIAN package/opt/tiny package/etc
        printf 'Package: tiny\nVersion: %s\nArchitecture: all\nMaintainer: a <a@b>\nDescription: tiny\n' $version >package/DEBIAN/control
        echo /etc/tiny.conf >package/DEBIAN/conffiles
        lines $((version * 3000)) >package/opt/tiny/data
        echo "version $version" >package/opt/tiny/version
        ln package/opt/tiny/version package/opt/tiny/hard
        ln -s data package/opt/tiny/soft
        echo "setting = $version" >package/etc/tiny.conf
        find package -exec touch -h -d '2001-02-03 04:05:06' {} +
        SOURCE_DATE_EPOCH=981173106 dpkg-deb --root-owner-group -b package tiny$version.deb >/dev/null
    done
    dpkg-deb -c tiny2.deb
    dpkg-deb -x tiny1.deb extracted
    mkdir -p root/var/lib/dpkg/{info,updates}
    touch root/var/lib/dpkg/{status,available}
    local options=(--root="$PWD/root" --log=/dev/null --force-not-root --force-bad-path)
    dpkg "${options[@]}" -i tiny1.deb >/dev/null
    dpkg "${options[@]}" -i tiny2.deb >/dev/null
    cat root/opt/tiny/version
    dpkg "${options[@]}" -s tiny | grep ^Status
    dpkg "${options[@]}" --verify tiny
    echo changed >root/opt/tiny/version
    dpkg "${options[@]}" --verify tiny || echo "verified: $?"
    dpkg "${options[@]}" -L tiny
    rm -rf package
}

check() { (cd root; grep -v -e version -e hard var/lib/dpkg/info/tiny.md5sums | md5sum -c); }
