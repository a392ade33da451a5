//! What waits for a model: a bounded queue, and the thread that empties it.
//!
//! Texts and pictures that are to be embedded are put together to batches of a number of tokens, whoever
//! asked for them; everything else runs by itself. A request holds its place as long as somebody waits for
//! it: a client that goes away gives it back at once, and what it had asked for is passed over.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chiasm_data::Rgb;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::engine::{Card, Engine, EngineError};
use crate::error::ApiError;

/// How much a model's queue takes, and how it is emptied.
#[derive(Clone, Copy, Debug)]
pub struct QueueConfig {
    /// Tokens that may wait or run at a time; more are refused.
    pub waiting_tokens: usize,
    /// Tokens of a batch. An item that is longer runs by itself.
    pub batch_tokens: usize,
    /// How long a request may wait to be begun.
    pub deadline: Duration,
}

impl Default for QueueConfig {
    fn default() -> Self {
        Self {
            waiting_tokens: 32_768,
            batch_tokens: 4_096,
            deadline: Duration::from_secs(30),
        }
    }
}

/// Tokens that a text beside a picture is taken to have, to admit a pair.
const USUAL_TEXT: usize = 24;

type Task = Box<dyn FnOnce(&dyn Engine) + Send>;

type Vector = Result<Vec<f32>, EngineError>;

/// Something to be embedded.
enum Item {
    Text(String),
    Picture(Arc<Rgb>),
}

impl Item {
    /// Whether two can share a batch.
    fn is_like(&self, other: &Self) -> bool {
        matches!(
            (self, other),
            (Self::Text(_), Self::Text(_)) | (Self::Picture(_), Self::Picture(_))
        )
    }
}

/// What is asked of the model's thread.
enum Work {
    Embed {
        item: Item,
        answer: oneshot::Sender<Vector>,
    },
    /// Anything else; does its own answering.
    Other {
        task: Task,
        /// Whether nobody waits for it any more.
        is_gone: Box<dyn Fn() -> bool + Send>,
    },
}

impl Work {
    fn is_gone(&self) -> bool {
        match self {
            Self::Embed { answer, .. } => answer.is_closed(),
            Self::Other { is_gone, .. } => is_gone(),
        }
    }
}

struct Job {
    work: Work,
    tokens: usize,
    until: Instant,
}

#[derive(Default)]
struct Waiting {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// What happened so far, for the metrics.
#[derive(Debug, Default)]
pub struct Counts {
    /// Batches and single tasks that ran.
    pub runs: AtomicU64,
    /// Items in them.
    pub items: AtomicU64,
    /// Tokens in them.
    pub tokens: AtomicU64,
    /// Microseconds that the model worked.
    pub busy_micros: AtomicU64,
    /// Items that nobody waited for any more when their turn came.
    pub cancelled: AtomicU64,
    /// Items that had waited too long.
    pub expired: AtomicU64,
}

/// The way to a model.
pub struct ModelQueue {
    card: Card,
    engine: Arc<dyn Engine>,
    config: QueueConfig,
    shared: Arc<Shared>,
    room: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    counts: Counts,
}

impl ModelQueue {
    /// Gives a model a thread of its own.
    ///
    /// # Errors
    /// If the system has no thread left.
    pub fn start(engine: Arc<dyn Engine>, config: QueueConfig) -> std::io::Result<Self> {
        let card = engine.card();
        let computing = Arc::clone(&engine);
        let shared = Arc::new(Shared {
            waiting: Mutex::default(),
            arrived: Condvar::new(),
            counts: Counts::default(),
        });
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name(format!("model {}", card.id))
            .spawn(move || run(computing.as_ref(), &theirs, config.batch_tokens))?;
        Ok(Self {
            card,
            engine,
            config,
            shared,
            room: Arc::new(Semaphore::new(config.waiting_tokens)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What the model is and can do.
    #[must_use]
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// Tokens that wait or run.
    #[must_use]
    pub fn waiting_tokens(&self) -> usize {
        self.config
            .waiting_tokens
            .saturating_sub(self.room.available_permits())
    }

    /// Jobs that wait for the model's thread.
    #[cfg(test)]
    pub(crate) fn waiting_jobs(&self) -> usize {
        locked(&self.shared.waiting).jobs.len()
    }

    /// Texts with what each costs in tokens, and the sum.
    pub(crate) fn counted(&self, texts: Vec<String>) -> (Vec<(String, usize)>, usize) {
        let counted = texts.into_iter().map(|text| {
            let tokens = self.engine.tokens(&text);
            (text, tokens)
        });
        let counted: Vec<(String, usize)> = counted.collect();
        let sum = counted.iter().map(|(_, tokens)| tokens).sum();
        (counted, sum)
    }

    /// Tokens of a picture.
    pub(crate) fn picture_tokens(&self) -> usize {
        self.engine.picture_tokens()
    }

    /// Tokens of a picture with a text of usual length.
    pub(crate) fn pair_tokens(&self) -> usize {
        self.engine.picture_tokens() + USUAL_TEXT
    }

    /// Vectors of texts, in their order, each with what it costs in tokens.
    pub(crate) async fn embed_texts(
        &self,
        texts: Vec<(String, usize)>,
    ) -> Result<Vec<Vec<f32>>, ApiError> {
        let items = texts
            .into_iter()
            .map(|(text, tokens)| (Item::Text(text), tokens));
        self.embed(items.collect()).await
    }

    /// Vectors of pictures, in their order.
    pub(crate) async fn embed_pictures(
        &self,
        pictures: Vec<Arc<Rgb>>,
    ) -> Result<Vec<Vec<f32>>, ApiError> {
        let tokens = self.picture_tokens();
        let items = pictures
            .into_iter()
            .map(|picture| (Item::Picture(picture), tokens));
        self.embed(items.collect()).await
    }

    async fn embed(&self, items: Vec<(Item, usize)>) -> Result<Vec<Vec<f32>>, ApiError> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let _place = self.admit(items.iter().map(|(_, tokens)| *tokens).sum())?;
        let (until, mut answers) = (self.until(), Vec::with_capacity(items.len()));
        for (item, tokens) in items {
            let (answer, wait) = oneshot::channel();
            answers.push(wait);
            self.push(Job {
                work: Work::Embed { item, answer },
                tokens,
                until,
            })?;
        }
        let mut vectors = Vec::with_capacity(answers.len());
        for wait in answers {
            let vector = wait.await.map_err(|_| self.unanswered(until))?;
            vectors.push(vector?);
        }
        Ok(vectors)
    }

    /// Runs something with the model, as one piece of `tokens` tokens.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        tokens: usize,
        task: impl FnOnce(&dyn Engine) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let _place = self.admit(tokens)?;
        let (answer, wait) = oneshot::channel();
        // Two need the sender: the task, and who asks whether anybody waits.
        let answer = Arc::new(Mutex::new(Some(answer)));
        let asked = Arc::clone(&answer);
        let until = self.until();
        let task = move |engine: &dyn Engine| {
            let result = task(engine);
            if let Some(answer) = locked(&answer).take() {
                // Who went away while it ran gets nothing.
                let _ = answer.send(result);
            }
        };
        let is_gone = move || {
            locked(&asked)
                .as_ref()
                .is_none_or(oneshot::Sender::is_closed)
        };
        self.push(Job {
            work: Work::Other {
                task: Box::new(task),
                is_gone: Box::new(is_gone),
            },
            tokens,
            until,
        })?;
        let result = wait.await.map_err(|_| self.unanswered(until))?;
        Ok(result?)
    }

    /// Ends the thread once what waits is done.
    pub fn close(&self) {
        locked(&self.shared.waiting).closed = true;
        self.shared.arrived.notify_all();
        let thread = locked(&self.thread).take();
        if let Some(thread) = thread {
            // A panic was caught within, and told to who asked.
            let _ = thread.join();
        }
    }

    fn until(&self) -> Instant {
        Instant::now() + self.config.deadline
    }

    /// A place for so many tokens, held while somebody waits. What is larger than the whole queue runs
    /// where nothing else waits.
    fn admit(&self, tokens: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let wanted = tokens.clamp(1, self.config.waiting_tokens);
        let wanted = u32::try_from(wanted).unwrap_or(u32::MAX);
        Arc::clone(&self.room)
            .try_acquire_many_owned(wanted)
            .map_err(|_| ApiError::Busy(self.expected_wait()))
    }

    /// How long what waits will take, by the speed so far.
    fn expected_wait(&self) -> Duration {
        let counts = &self.shared.counts;
        let tokens = counts.tokens.load(Ordering::Relaxed).max(1);
        let micros = counts.busy_micros.load(Ordering::Relaxed);
        let expected = micros.saturating_mul(self.waiting_tokens() as u64) / tokens;
        Duration::from_micros(expected).min(self.config.deadline)
    }

    fn push(&self, job: Job) -> Result<(), ApiError> {
        let mut waiting = locked(&self.shared.waiting);
        if waiting.closed {
            return Err(ApiError::Stopping);
        }
        waiting.jobs.push_back(job);
        drop(waiting);
        self.shared.arrived.notify_one();
        Ok(())
    }

    /// Why no answer came: the turn came too late, or the model broke off.
    fn unanswered(&self, until: Instant) -> ApiError {
        match Instant::now() >= until {
            true => ApiError::Deadline(self.config.deadline),
            false => ApiError::Failed("it broke off; see the server's log".to_owned()),
        }
    }
}

impl Drop for ModelQueue {
    fn drop(&mut self) {
        self.close();
    }
}

/// What a lock guards stays whole when a task panics: nothing is changed in steps under it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The model's thread: takes batches until the queue is closed and empty.
fn run(engine: &dyn Engine, shared: &Shared, batch_tokens: usize) {
    while let Some(batch) = next_batch(shared, batch_tokens) {
        let begun = Instant::now();
        let (items, tokens) = (
            batch.len(),
            batch.iter().map(|job| job.tokens).sum::<usize>(),
        );
        // A defect in one request must not take the server from all others.
        let work = std::panic::AssertUnwindSafe(|| run_batch(engine, batch));
        let _ = std::panic::catch_unwind(work);
        let counts = &shared.counts;
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        counts.runs.fetch_add(1, Ordering::Relaxed);
        counts.items.fetch_add(items as u64, Ordering::Relaxed);
        counts.tokens.fetch_add(tokens as u64, Ordering::Relaxed);
        counts.busy_micros.fetch_add(micros, Ordering::Relaxed);
    }
}

/// The oldest job with those that can share its batch, or nothing when the queue is closed and empty.
fn next_batch(shared: &Shared, batch_tokens: usize) -> Option<Vec<Job>> {
    let mut waiting = locked(&shared.waiting);
    loop {
        let now = Instant::now();
        let before = waiting.jobs.len();
        waiting.jobs.retain(|job| !job.work.is_gone());
        let gone = before - waiting.jobs.len();
        // Dropping a job drops its sender, which is how its request hears of it.
        waiting.jobs.retain(|job| job.until > now);
        let expired = before - gone - waiting.jobs.len();
        shared
            .counts
            .cancelled
            .fetch_add(gone as u64, Ordering::Relaxed);
        shared
            .counts
            .expired
            .fetch_add(expired as u64, Ordering::Relaxed);
        if let Some(first) = waiting.jobs.pop_front() {
            return Some(gather(&mut waiting.jobs, first, batch_tokens));
        }
        if waiting.closed {
            return None;
        }
        waiting = shared
            .arrived
            .wait(waiting)
            .unwrap_or_else(PoisonError::into_inner);
    }
}

/// Takes what fits beside the first job, in the order in which it came.
fn gather(jobs: &mut VecDeque<Job>, first: Job, batch_tokens: usize) -> Vec<Job> {
    let mut room = batch_tokens.saturating_sub(first.tokens);
    let mut batch = vec![first];
    let mut rest = VecDeque::with_capacity(jobs.len());
    while let Some(job) = jobs.pop_front() {
        let fits = job.tokens <= room
            && match (batch.first().map(|job| &job.work), &job.work) {
                (Some(Work::Embed { item: first, .. }), Work::Embed { item, .. }) => {
                    first.is_like(item)
                }
                _ => false,
            };
        match fits {
            true => {
                room -= job.tokens;
                batch.push(job);
            }
            false => rest.push_back(job),
        }
    }
    *jobs = rest;
    batch
}

fn run_batch(engine: &dyn Engine, batch: Vec<Job>) {
    let (mut texts, mut pictures, mut answers) = (Vec::new(), Vec::new(), Vec::new());
    for job in batch {
        match job.work {
            Work::Other { task, .. } => task(engine),
            Work::Embed { item, answer } => {
                match item {
                    Item::Text(text) => texts.push(text),
                    Item::Picture(picture) => pictures.push(picture),
                }
                answers.push(answer);
            }
        }
    }
    if answers.is_empty() {
        return;
    }
    let vectors = match pictures.is_empty() {
        true => {
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            engine.embed_texts(&texts)
        }
        false => engine.embed_pictures(&pictures),
    };
    match vectors {
        Ok(vectors) => {
            for (answer, vector) in answers.into_iter().zip(vectors) {
                let _ = answer.send(Ok(vector));
            }
        }
        Err(error) => {
            for answer in answers {
                let _ = answer.send(Err(error.clone()));
            }
        }
    }
}
