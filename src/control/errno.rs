//! Names of errors, as man pages have them: words alone are not what people search for.

/// The name of an errno; its number where it is none that a backing filesystem gives.
pub fn name(errno: i32) -> String {
    let known = match errno {
        libc::EACCES => "EACCES",
        libc::EAGAIN => "EAGAIN",
        libc::EBADF => "EBADF",
        libc::EBUSY => "EBUSY",
        libc::ECONNABORTED => "ECONNABORTED",
        libc::EDQUOT => "EDQUOT",
        libc::EFAULT => "EFAULT",
        libc::EFBIG => "EFBIG",
        libc::EHOSTDOWN => "EHOSTDOWN",
        libc::EINTR => "EINTR",
        libc::EINVAL => "EINVAL",
        libc::EIO => "EIO",
        libc::ELOOP => "ELOOP",
        libc::EMFILE => "EMFILE",
        libc::ENFILE => "ENFILE",
        libc::ENODEV => "ENODEV",
        libc::ENOENT => "ENOENT",
        libc::ENOLINK => "ENOLINK",
        libc::ENOMEM => "ENOMEM",
        libc::ENOSPC => "ENOSPC",
        libc::ENOTCONN => "ENOTCONN",
        libc::ENXIO => "ENXIO",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::EPERM => "EPERM",
        libc::EREMOTEIO => "EREMOTEIO",
        libc::EROFS => "EROFS",
        libc::ESTALE => "ESTALE",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::ETXTBSY => "ETXTBSY",
        libc::EUCLEAN => "EUCLEAN",
        other => return format!("errno {other}"),
    };
    known.to_owned()
}
