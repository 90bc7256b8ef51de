//! Peer specs from a file, or from all files of a directory, read again when they change.

use core::time::Duration;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use tracing::debug;
use zeroize::Zeroizing;

use super::resources::{ResourceError, peer_specs};
use super::{Feed, Source, merge};
use crate::control::documents::{MAX_LEN, SyntaxError};
use crate::control::spec::PeerSpec;
use crate::crypto::PresharedKey;

/// How long nothing may have happened before files are read: many changes become one.
const SETTLE: Duration = Duration::from_millis(50);
/// How long changes may go on before files are read all the same, in [`SETTLE`]s.
const MAX_SETTLES: u32 = 20;
/// How often files are read although nothing was heard: not every file system tells.
const RESCAN: Duration = Duration::from_secs(10);
/// What of a directory is read.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// Peer specs in files, in the forms that `talosctl get kubespanpeerspecs -o yaml` and `-o json`
/// print.
///
/// A directory stands for all files in it that end in `.yaml`, `.yml` or `.json` and do not begin
/// with a dot. A file that cannot be used, being half written, say, counts as it was when it last
/// could, and the source says what is wrong with it. Removing a file from a directory removes its
/// peers; a file or directory that was named itself and is missing is an error.
#[derive(Clone, Debug)]
pub struct FileSource {
    path: PathBuf,
    preshared_key: Option<PresharedKey>,
}

impl FileSource {
    /// The specs at `path`.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            preshared_key: None,
        }
    }

    /// The preshared key of all peers: Talos uses the cluster's secret, which is in no peer spec.
    #[must_use]
    pub fn preshared_key(mut self, key: PresharedKey) -> Self {
        self.preshared_key = Some(key);
        self
    }
}

impl Source for FileSource {
    fn name(&self) -> String {
        format!("file {}", self.path.display())
    }

    fn run(self: Box<Self>, feed: &Feed) {
        let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC);
        if let Err(error) = &watch {
            let path = self.path.display();
            debug!("{path} is read every {RESCAN:?}: no inotify ({error})");
        }
        let watch = watch.ok();
        let mut files = Files::new(*self);
        while !feed.is_stopped() {
            if let Some(watch) = &watch {
                files.watch(watch);
            }
            let problems = files.scan();
            // Also where the set is the same but a problem is over.
            if files.take_news(problems.is_empty()) {
                feed.publish(files.specs());
            }
            if !problems.is_empty() {
                feed.problem(problems.join("; "));
            }
            let mut waited = wait(watch.as_ref(), feed, RESCAN);
            for _ in 0..MAX_SETTLES {
                if !waited {
                    break;
                }
                waited = wait(watch.as_ref(), feed, SETTLE);
            }
        }
    }
}

/// What was read of each file.
#[derive(Debug)]
struct Files {
    source: FileSource,
    good: BTreeMap<PathBuf, Vec<PeerSpec>>,
    /// What is to be published, or was.
    changed: bool,
    troubled: bool,
}

#[derive(Debug, thiserror::Error)]
enum FileError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Resource(#[from] ResourceError),
    #[error("it is still being written")]
    Unsettled,
}

impl Files {
    fn new(source: FileSource) -> Self {
        Self {
            source,
            good: BTreeMap::new(),
            changed: false,
            troubled: false,
        }
    }

    /// Has `watch` tell of changes. The directory is watched, as editors and mounts replace files
    /// instead of writing them. Done anew each time: the directory may have been replaced too.
    fn watch(&self, watch: &OwnedFd) {
        use inotify::WatchFlags as On;
        let path = &self.source.path;
        let directory = match path.parent() {
            _ if path.is_dir() => path,
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        // Not when a file is merely written to: half of it is of no use.
        let events = On::CLOSE_WRITE | On::CREATE | On::DELETE | On::MOVE | On::ATTRIB;
        let _ = inotify::add_watch(watch, directory, events | On::DELETE_SELF | On::MOVE_SELF);
    }

    /// Reads everything; returns what is wrong.
    fn scan(&mut self) -> Vec<String> {
        let paths = match self.paths() {
            Ok(paths) => paths,
            Err(error) => return vec![format!("cannot list it: {error}")],
        };
        let (before, mut problems) = (self.good.len(), Vec::new());
        self.good.retain(|path, _| paths.contains(path));
        self.changed |= self.good.len() != before;
        for path in paths {
            match read(&path, self.source.preshared_key.as_ref()) {
                Ok(specs) => {
                    let known = self.good.insert(path, specs.clone());
                    self.changed |= known.as_ref() != Some(&specs);
                }
                Err(error) => problems.push(format!("{}: {error}", path.display())),
            }
        }
        problems
    }

    /// Whether there is something to publish: other peers than last time, or that all is well
    /// again. Not while nothing could be read at all.
    fn take_news(&mut self, well: bool) -> bool {
        let recovered = core::mem::replace(&mut self.troubled, !well) && well;
        core::mem::take(&mut self.changed) || recovered
    }

    fn specs(&self) -> Vec<PeerSpec> {
        merge(self.good.values())
    }

    fn paths(&self) -> io::Result<Vec<PathBuf>> {
        let path = &self.source.path;
        if !fs::metadata(path)?.is_dir() {
            return Ok(vec![path.clone()]);
        }
        let mut paths = Vec::new();
        for entry in fs::read_dir(path)? {
            let path = entry?.path();
            let hidden = path
                .file_name()
                .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
            let meant = path
                .extension()
                .is_some_and(|found| EXTENSIONS.iter().any(|extension| found == *extension));
            if meant && !hidden && !path.is_dir() {
                paths.push(path);
            }
        }
        paths.sort_unstable();
        Ok(paths)
    }
}

fn read(path: &Path, preshared_key: Option<&PresharedKey>) -> Result<Vec<PeerSpec>, FileError> {
    let before = fs::metadata(path)?;
    let len = usize::try_from(before.len()).unwrap_or(usize::MAX);
    if len > MAX_LEN {
        return Err(ResourceError::from(SyntaxError::TooLong { len }).into());
    }
    let text = Zeroizing::new(fs::read_to_string(path)?);
    let after = fs::metadata(path)?;
    if before.len() != after.len() || before.modified()? != after.modified()? {
        return Err(FileError::Unsettled);
    }
    Ok(peer_specs(&text, preshared_key)?)
}

/// Waits for a change, at most for `limit`; true where there was one and the feed goes on.
fn wait(watch: Option<&OwnedFd>, feed: &Feed, limit: Duration) -> bool {
    let stopped = feed.stopped();
    let mut fds = vec![PollFd::from_borrowed_fd(stopped, PollFlags::IN)];
    fds.extend(watch.map(|watch| PollFd::from_borrowed_fd(watch.as_fd(), PollFlags::IN)));
    // A span of seconds fits.
    let limit = Timespec::try_from(limit).ok();
    let ready = poll(&mut fds, limit.as_ref()).unwrap_or(0) > 0;
    if let Some(watch) = watch {
        // What happened does not matter: everything is read again.
        let mut events = [0; 4096];
        while rustix::io::read(watch, &mut events).is_ok_and(|len| len > 0) {}
    }
    ready && !feed.is_stopped()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;

    use crossbeam_channel::{Receiver, unbounded};

    use super::super::{News, Stop};
    use super::*;
    use crate::control::testing::Directory;
    use crate::crypto::PublicKey;

    /// Only a failing test waits that long.
    const LIMIT: Duration = Duration::from_secs(30);

    fn resource(byte: u8) -> String {
        let key = PublicKey::from([byte; 32]);
        format!(
            "metadata:\n  id: {key}\nspec:\n  allowedIPs: [10.0.{byte}.0/24]\n  endpoints: []\n  label: node\n"
        )
    }

    fn keys(specs: &[PeerSpec]) -> Vec<u8> {
        let bytes = specs.iter().map(|spec| spec.public_key.as_bytes()[0]);
        bytes.collect()
    }

    struct Running {
        news: Receiver<(usize, News)>,
        stop: Arc<Stop>,
        thread: Option<thread::JoinHandle<()>>,
    }

    impl Running {
        fn start(path: &Path) -> Self {
            let (sender, news) = unbounded();
            let stop = Arc::new(Stop::new().unwrap());
            let feed = Feed::new(1, sender, Arc::clone(&stop));
            let source = Box::new(FileSource::new(path));
            let thread = Some(thread::spawn(move || source.run(&feed)));
            Self { news, stop, thread }
        }

        fn peers(&self) -> Vec<u8> {
            match self.news.recv_timeout(LIMIT).unwrap() {
                (1, News::Specs(specs)) => keys(&specs),
                other => panic!("{other:?}"),
            }
        }

        fn problem(&self) -> String {
            match self.news.recv_timeout(LIMIT).unwrap() {
                (1, News::Problem(problem)) => problem,
                other => panic!("{other:?}"),
            }
        }
    }

    impl Drop for Running {
        fn drop(&mut self) {
            self.stop.set();
            let ended = self.thread.take().map(thread::JoinHandle::join);
            assert!(thread::panicking() || ended.is_some_and(|ended| ended.is_ok()));
        }
    }

    #[test]
    fn a_file_is_followed_through_trouble() {
        let directory = Directory::new();
        let path = directory.path().join("peers.yaml");
        let source = Running::start(&path);
        assert!(source.problem().contains("No such file"));
        fs::write(&path, resource(1)).unwrap();
        assert_eq!(source.peers(), [1]);
        let both = resource(1) + "---\n" + &resource(2);
        let new = directory.path().join("new");
        fs::write(&new, &both).unwrap();
        fs::rename(&new, &path).unwrap();
        assert_eq!(source.peers(), [1, 2]);
        // Half written: nothing is published.
        fs::write(&path, &both[..both.len() - 30]).unwrap();
        let problem = source.problem();
        assert!(problem.contains("peers.yaml"), "{problem}");
        fs::write(&path, "").unwrap();
        assert!(source.problem().contains("empty"));
        fs::write(&path, "[]").unwrap();
        assert_eq!(source.peers(), [0; 0]);
    }

    #[test]
    fn a_directory_is_its_files() {
        let directory = Directory::new();
        let path = |name: &str| directory.path().join(name);
        fs::write(path("b.yaml"), resource(2)).unwrap();
        fs::write(path("a.json"), "[]").unwrap();
        for other in [".hidden.yaml", "README", "c.yaml.swp"] {
            fs::write(path(other), "neither").unwrap();
        }
        let mut files = Files::new(FileSource::new(directory.path()));
        assert_eq!(files.scan(), [""; 0]);
        assert!(files.take_news(true) && !files.take_news(true));
        assert_eq!(keys(&files.specs()), [2]);

        // One bad file costs nobody else's peers, and not its own.
        fs::write(
            path("b.yaml"),
            resource(2).replace("10.0.2.0/24", "10.0.2.0/240"),
        )
        .unwrap();
        fs::write(path("c.yml"), resource(3)).unwrap();
        let problems = files.scan();
        assert_eq!(problems.len(), 1);
        assert!(problems[0].contains("b.yaml") && problems[0].contains("10.0.2.0/240"));
        assert!(files.take_news(false));
        assert_eq!(keys(&files.specs()), [2, 3]);

        // Well again, with the same peers: that is news too.
        fs::write(path("b.yaml"), resource(2)).unwrap();
        assert_eq!(files.scan(), [""; 0]);
        assert!(files.take_news(true));

        fs::remove_file(path("b.yaml")).unwrap();
        assert_eq!(files.scan(), [""; 0]);
        assert!(files.take_news(true));
        assert_eq!(keys(&files.specs()), [3]);

        let mut gone = Files::new(FileSource::new(path("nowhere")));
        assert!(gone.scan()[0].starts_with("cannot list it"));
        assert!(!gone.take_news(false));
    }
}
