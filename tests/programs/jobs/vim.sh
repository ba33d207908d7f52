# Goal: vim saves a file by rewriting it and by renaming a new one over it, with backup and swap
# files, and keeps links, modes and attributes as elsewhere.
# Needs: vim|vim.tiny setfattr
# Runs: default tiny
job() {
    local copy name vim
    vim=$(command -v vim vim.tiny | head -n 1)
    for copy in yes no auto; do
        for name in plain linked soft; do
            lines 2000 >$copy.$name
            chmod 640 $copy.$name
            setfattr -n user.name -v value $copy.$name
        done
        ln $copy.linked $copy.link
        mv $copy.soft $copy.target
        ln -s $copy.target $copy.soft
        for name in plain linked soft; do
            $vim -u NONE -es -N -c "set backup backupcopy=$copy backupdir=. swapfile directory=. fsync" \
                -c '%s/line \(\d*\)/row \1/' -c '$d' -c 'wq' $copy.$name
            head -n 1 $copy.$name
            stat -c '%n %F %a %h %s' $copy.$name $copy.link $copy.target
        done
    done
    # Killed while editing: the swap file is there.
    $vim -u NONE -es -N -c 'set swapfile directory=.' -c 'normal ixyz' -c preserve -c 'sleep 30' yes.plain &
    wait_until test -s .yes.plain.swp
    kill -9 $!
    wait $! 2>/dev/null || echo "killed: $?"
    rm .yes.plain.swp
}
