//! Generations that were replaced while a worker may still read them.

use std::sync::Arc;

use arc_swap::ArcSwap;

/// Keeps replaced generations until no worker has them, so that their memory is given back by a
/// writer: to take apart a table of a million prefixes in the middle of a batch would stall it.
///
/// What a worker still reads stays until the next publication.
#[derive(Debug)]
pub(super) struct Retired<T>(Vec<Arc<T>>);

impl<T> Default for Retired<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Retired<T> {
    /// Publishes `next` in place of what `published` holds.
    pub(super) fn replace(&mut self, published: &ArcSwap<T>, next: T) {
        // The swap turns every reader's loan into a counted reference, so the count is the truth
        // from here on: it only falls.
        self.0.push(published.swap(Arc::new(next)));
        self.0
            .retain(|generation| Arc::strong_count(generation) > 1);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// Tells which thread gave it back.
    struct Witness(std::sync::mpsc::Sender<thread::ThreadId>);

    impl Drop for Witness {
        fn drop(&mut self) {
            let _ = self.0.send(thread::current().id());
        }
    }

    #[test]
    fn a_generation_outlives_its_readers_and_ends_with_the_writer() {
        let (sender, dropped) = std::sync::mpsc::channel();
        let new = || Witness(sender.clone());
        let published = ArcSwap::from_pointee(new());
        let mut retired = Retired::default();
        thread::scope(|scope| {
            let (loaded, is_loaded) = std::sync::mpsc::channel();
            let (go_on, may_go_on) = std::sync::mpsc::channel::<()>();
            let published = &published;
            let reader = scope.spawn(move || {
                let guard = published.load();
                loaded.send(()).unwrap();
                may_go_on.recv().unwrap();
                drop(guard);
            });
            is_loaded.recv().unwrap();
            retired.replace(published, new());
            assert!(dropped.try_recv().is_err(), "still read");
            go_on.send(()).unwrap();
            reader.join().unwrap();
            assert!(dropped.try_recv().is_err(), "the reader does not clean up");
        });
        retired.replace(&published, new());
        assert_eq!(retired.0.len(), 0);
        let by: Vec<_> = dropped.try_iter().collect();
        assert_eq!(by, [thread::current().id(); 2]);
    }
}
