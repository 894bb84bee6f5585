//! A network that loses the answer to a COMMIT, or the COMMIT itself, or a connection before it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::SeqCst;

use jiff::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tollgate::journal::{Batch, Outcome, Row};
use tollgate::records::{Flushed, Records, RecordsError};
use tollgate::units::{KeyNum, NodeId, PeriodId, TenantNum};

use crate::support::postgres;

/// What becomes of the connection when the client says a certain word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// The server never hears it.
    Before,
    /// The server hears it and the client never hears back.
    After,
}

/// Passes everything on, but the next `times` messages with `word`.
struct Network {
    address: SocketAddr,
    times: Arc<AtomicUsize>,
}

impl Network {
    async fn to(port: u16, word: &'static str, cut: Cut) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let network = Self { address: listener.local_addr().unwrap(), times: Arc::default() };
        let times = Arc::clone(&network.times);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
                tokio::spawn(pass_on(client, server, word, cut, Arc::clone(&times)));
            }
        });
        network
    }

    fn cut(&self, times: usize) {
        self.times.store(times, SeqCst);
    }
}

async fn pass_on(mut client: TcpStream, mut server: TcpStream, word: &str, cut: Cut, times: Arc<AtomicUsize>) {
    let (mut asked, mut told) = (vec![0; 65_536], vec![0; 65_536]);
    loop {
        tokio::select! {
            read = client.read(&mut asked) => {
                let Ok(length @ 1..) = read else { return };
                let said = &asked[..length];
                let now = said.windows(word.len()).any(|some| some == word.as_bytes())
                    && times.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok();
                if now && cut == Cut::Before {
                    return;
                }
                server.write_all(said).await.unwrap();
                if now {
                    // Its answer says that it was done; nobody hears it.
                    assert!(server.read(&mut told).await.unwrap() > 0);
                    return;
                }
            }
            read = server.read(&mut told) => {
                let Ok(length @ 1..) = read else { return };
                if client.write_all(&told[..length]).await.is_err() {
                    return;
                }
            }
        }
    }
}

async fn behind(network: &Network, name: &str) -> Records {
    let server = postgres::shared();
    let url = server.url(name).replace(&server.port().to_string(), &network.address.port().to_string());
    Records::open(&(url + "?sslmode=disable")).await.unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_795_000_000).unwrap()
}

fn batch(seq: u64) -> Batch {
    let row = Row {
        tenant: TenantNum(1),
        period: PeriodId(1_795_000_000),
        meter: "api_units".into(),
        route: "GET /".into(),
        hour_s: 0,
        status: 200,
        outcome: Outcome::Completed,
        key: KeyNum::NONE,
        units: 7,
        requests: 1,
    };
    Batch { node: NodeId("a".into()), worker: 0, from: seq, to: seq, rows: vec![row] }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_is_lost_may_have_happened() {
    let network = Network::to(postgres::shared().port(), "COMMIT", Cut::After).await;
    let records = behind(&network, "cut-after").await;
    network.cut(1);
    let unknown = records.flush(&[batch(1)], now()).await;
    assert!(matches!(unknown, Err(RecordsError::Unknown(_))), "{unknown:?}");
    let again = records.flush(&[batch(1)], now()).await.unwrap();
    assert_eq!(again, [Flushed::Skipped { flushed_seq: 1 }], "it had happened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_never_arrived_may_have_happened_too() {
    let network = Network::to(postgres::shared().port(), "COMMIT", Cut::Before).await;
    let records = behind(&network, "cut-before").await;
    network.cut(1);
    let unknown = records.flush(&[batch(1)], now()).await;
    assert!(matches!(unknown, Err(RecordsError::Unknown(_))), "{unknown:?}");
    assert_eq!(records.flush(&[batch(1)], now()).await.unwrap(), [Flushed::Applied], "it had not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_lost_before_the_commit_is_made_up_for_at_once() {
    for (name, word) in [("cut-begin", "BEGIN"), ("cut-statement", "UPDATE journal")] {
        let network = Network::to(postgres::shared().port(), word, Cut::After).await;
        let records = behind(&network, name).await;
        network.cut(50);
        let away = records.flush(&[batch(1)], now()).await;
        assert!(matches!(away, Err(RecordsError::Unavailable(_))), "{word}: nothing happened: {away:?}");
        network.cut(2);
        assert_eq!(records.flush(&[batch(1)], now()).await.unwrap(), [Flushed::Applied], "{word}");
        assert_eq!(network.times.load(SeqCst), 0, "{word}: two connections were lost on the way");
    }
}
