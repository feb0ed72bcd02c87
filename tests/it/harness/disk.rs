//! A small file system of a test's own, which can be filled. Needs root.

use std::{
    fs::File,
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

/// Bytes written at once; halved down to one page when the disk is nearly full.
const CHUNK: usize = 1 << 20;
const PAGE: usize = 4096;

/// A tmpfs; unmounted when dropped.
pub struct Tmpfs(PathBuf);

impl Tmpfs {
    /// Mounts `kib` KiB on a directory, which is created. Without the rights to do so prints the reason and returns
    /// nothing: the test is skipped.
    pub fn mount(directory: &Path, kib: u32) -> Option<Tmpfs> {
        std::fs::create_dir_all(directory).expect("a directory");
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={kib}k,mode=700"),
                "tmpfs",
            ])
            .arg(directory)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Tmpfs(directory.to_owned())),
            Ok(output) => {
                let why = String::from_utf8_lossy(&output.stderr);
                eprintln!("skipped, a tmpfs cannot be mounted: {}", why.trim());
                None
            }
            Err(error) => {
                eprintln!("skipped, no `mount`: {error}");
                None
            }
        }
    }

    /// Writes into a file until nothing more fits. Remove the file to have space again.
    pub fn fill(&self) -> PathBuf {
        let path = self.0.join("filler");
        let mut file = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .expect("a file");
        let mut chunk = CHUNK;
        while chunk >= PAGE {
            match file.write_all(&vec![b'x'; chunk]) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => chunk /= 2,
                Err(error) => panic!("{error}"),
            }
        }
        path
    }

    pub fn remount(&self, option: &str) {
        let remounted = Command::new("mount")
            .args(["-o", &format!("remount,{option}")])
            .arg(&self.0)
            .status();
        assert!(remounted.expect("mount runs").success(), "remount,{option}");
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Lazily: a process that the test started may still have files open.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
