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

/// An ext4 file system in a file, which becomes read-only as after an I/O error. Unmounted when dropped.
pub struct Ext4 {
    directory: PathBuf,
    image: PathBuf,
}

impl Ext4 {
    /// Mounts it on a directory, which is created. Without the rights to do so, or on another kernel, prints the reason
    /// and returns nothing: the test is skipped.
    pub fn mount(directory: &Path, mib: u64) -> Option<Ext4> {
        std::fs::create_dir_all(directory).expect("a directory");
        let image = directory.with_extension("ext4");
        let file = File::create(&image).expect("a file");
        file.set_len(mib << 20).expect("its size");
        let disk = Ext4 {
            directory: directory.to_owned(),
            image,
        };
        let made = tried("mkfs.ext4", &["-q", &disk.image()]).and_then(|()| disk.attach());
        match made {
            Ok(()) if disk.trigger().exists() => Some(disk),
            Ok(()) => {
                eprintln!("skipped, the kernel has no {}", disk.trigger().display());
                None
            }
            Err(why) => {
                eprintln!("skipped, an ext4 file system cannot be mounted: {why}");
                None
            }
        }
    }

    fn image(&self) -> String {
        self.image.to_string_lossy().into_owned()
    }

    fn attach(&self) -> Result<(), String> {
        let directory = self.directory.to_string_lossy();
        let options = "loop,errors=remount-ro";
        tried(
            "mount",
            &["-t", "ext4", "-o", options, &self.image(), &directory],
        )
    }

    /// The kernel's file that reports an error of this file system.
    fn trigger(&self) -> PathBuf {
        let mounts = std::fs::read_to_string("/proc/mounts").expect("the mounts");
        let directory = self.directory.to_string_lossy();
        let line = mounts
            .lines()
            .find(|line| line.split(' ').nth(1) == Some(&directory));
        let device = line
            .and_then(|line| line.split(' ').next())
            .unwrap_or_default();
        let name = device.trim_start_matches("/dev/");
        Path::new("/sys/fs/ext4")
            .join(name)
            .join("trigger_fs_error")
    }

    /// Makes it read-only at once.
    pub fn fail(&self) {
        std::fs::write(self.trigger(), "1").expect("an error");
    }

    /// Checks it and mounts it again. No file may be open.
    pub fn repair(&self) {
        let directory = self.directory.to_string_lossy();
        tried("umount", &[&directory]).expect("unmounted");
        // Exits with 1 after a correction.
        let _ = tried("e2fsck", &["-fy", &self.image()]);
        self.attach().expect("mounted again");
    }
}

impl Drop for Ext4 {
    fn drop(&mut self) {
        let _ = tried("umount", &["-l", &self.directory.to_string_lossy()]);
    }
}

fn tried(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", why.trim()))
}
