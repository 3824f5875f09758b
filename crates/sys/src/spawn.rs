//! `fork` and `exec` without the heap: for the guard, which allocates nothing after its start.
//!
//! Everybody else uses `std::process::Command` with [`crate::child::ChildSetup::apply`].

use std::ffi::{CStr, c_char};
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsRawFd as _;

use rustix::io::{FdFlags, fcntl_dupfd_cloexec, fcntl_setfd};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::Pid;

use crate::child::ChildSetup;

/// A null-terminated array of strings, as `execve(2)` takes it, of at most `N - 1` entries.
#[derive(Debug)]
pub struct StringTable<'a, const N: usize> {
    pointers: [*const c_char; N],
    length: usize,
    strings: PhantomData<&'a CStr>,
}

impl<'a, const N: usize> StringTable<'a, N> {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self { pointers: [std::ptr::null(); N], length: 0, strings: PhantomData }
    }

    /// Appends `string`; false, and nothing done, when the table is full.
    #[must_use]
    pub fn push(&mut self, string: &'a CStr) -> bool {
        // The last place stays null.
        if self.length + 1 >= N {
            return false;
        }
        self.pointers[self.length] = string.as_ptr();
        self.length += 1;
        true
    }

    /// The first string, if any.
    #[must_use]
    pub fn first(&self) -> Option<&'a CStr> {
        // SAFETY: a non-null entry is the pointer of a `&'a CStr`.
        (self.length > 0).then(|| unsafe { CStr::from_ptr(self.pointers[0]) })
    }
}

impl<const N: usize> Default for StringTable<'_, N> {
    fn default() -> Self {
        Self::new()
    }
}

/// Number that the pipe for the child's error is moved above, out of the way of inherited descriptors.
const PARKED: i32 = 100;

/// Starts `program` with `arguments` (the program's name first) and `environment`, in directory `directory` if given,
/// after the steps of `setup`. Returns once the program runs.
///
/// # Errors
/// What `fork`, a step of `setup`, `chdir` or `execve` reported; the child is reaped then.
pub fn spawn<const A: usize, const E: usize>(
    program: &CStr,
    arguments: &StringTable<'_, A>,
    environment: &StringTable<'_, E>,
    directory: Option<&CStr>,
    setup: &ChildSetup,
) -> io::Result<Pid> {
    let (report, child_end) = pipe_with(PipeFlags::CLOEXEC)?;
    let child_end = {
        let parked = fcntl_dupfd_cloexec(&child_end, PARKED)?;
        drop(child_end);
        parked
    };
    fcntl_setfd(&child_end, FdFlags::CLOEXEC)?;
    let parent = std::process::id();
    // SAFETY: the child calls async-signal-safe functions only (`ChildSetup::run` and system calls), then replaces
    // itself or ends; the tables are null-terminated and their strings live, as their types guarantee.
    let pid = unsafe {
        let pid = libc::fork();
        if pid == 0 {
            let error = match setup.run(parent) {
                Err(error) => error,
                Ok(()) if directory.is_some_and(|directory| libc::chdir(directory.as_ptr()) < 0) => {
                    io::Error::last_os_error()
                }
                Ok(()) => {
                    libc::execve(program.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr());
                    io::Error::last_os_error()
                }
            };
            let number = error.raw_os_error().unwrap_or(libc::EIO).to_ne_bytes();
            libc::write(child_end.as_raw_fd(), number.as_ptr().cast(), number.len());
            libc::_exit(127);
        }
        pid
    };
    let pid = match pid {
        -1 => return Err(io::Error::last_os_error()),
        pid => Pid::from_raw(pid).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?,
    };
    drop(child_end);
    let mut number = [0_u8; 4];
    loop {
        match rustix::io::read(&report, &mut number) {
            Ok(4) => {
                // The child has written its error and exits; it must not stay behind as a zombie.
                rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty())?;
                return Err(io::Error::from_raw_os_error(i32::from_ne_bytes(number)));
            }
            // Closed by exec, or by the child's end.
            Ok(_) => return Ok(pid),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::{WaitOptions, waitpid};

    use super::{StringTable, spawn};
    use crate::child::ChildSetup;

    #[test]
    fn a_program_runs_with_its_arguments_environment_and_directory() {
        let mut arguments = StringTable::<8>::new();
        for argument in [c"sh", c"-c", c"test \"$X\" = y && test \"$(pwd)\" = / && test $1 = one", c"sh", c"one"] {
            assert!(arguments.push(argument));
        }
        let mut environment = StringTable::<4>::new();
        assert!(environment.push(c"X=y"));
        let pid = spawn(c"/bin/sh", &arguments, &environment, Some(c"/"), &ChildSetup::default()).unwrap();
        let (_, status) = waitpid(Some(pid), WaitOptions::empty()).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(0));
    }

    #[test]
    fn a_missing_program_is_an_error_here() {
        let arguments = StringTable::<2>::new();
        let error = spawn(c"/no/such", &arguments, &arguments, None, &ChildSetup::default()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    }

    #[test]
    fn a_full_table_takes_no_more() {
        let mut table = StringTable::<2>::new();
        assert!(table.push(c"a"));
        assert!(!table.push(c"b"));
        assert_eq!(table.first(), Some(c"a"));
    }
}
