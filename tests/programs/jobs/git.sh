# Goal: a repository with many commits, a merge, a clone and a gc is sound and the same.
# Needs: git
# Runs: default tiny
# Differs: */.git/index clone/.git/config -- inode numbers and change times; the place cloned from
job() {
    export HOME=$OUTSIDE GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_NAME=a GIT_AUTHOR_EMAIL=a@b
    export GIT_COMMITTER_NAME=a GIT_COMMITTER_EMAIL=a@b
    export GIT_AUTHOR_DATE='2001-02-03 04:05:06' GIT_COMMITTER_DATE='2001-02-03 04:05:06'
    git config --global pack.threads 1
    git config --global gc.auto 0
    git config --global core.logAllRefUpdates false
    git config --global init.defaultBranch main
    git init -q repo
    cd repo
    local i
    for i in $(seq 40); do
        mkdir -p "d$((i % 5))"
        lines $((i * 20)) >"d$((i % 5))/file$i"
        echo "change $i" >>log
        git add -A
        git commit -qm "commit $i"
    done
    git status --porcelain
    git checkout -qb side HEAD~20
    git mv d1/file1 d2/renamed
    git commit -qm side
    git checkout -q main
    git merge -q -m merged side
    echo kept >>log
    git stash -q
    git stash pop -q
    git diff --stat
    git tag -a -m tagged v1
    git clone -q --no-local . ../clone
    git worktree add -q ../tree v1
    git -C ../tree status --porcelain
    git worktree remove ../tree
    git gc -q --prune=now
    git log --oneline | sha1sum
    git archive v1 | sha1sum
    git -C ../clone status --porcelain
}

check() {
    local repo
    for repo in repo clone; do
        git -c safe.directory='*' -C $repo fsck --strict --full --no-dangling --no-progress
        git -c safe.directory='*' -C $repo rev-list --all --count
    done
}
