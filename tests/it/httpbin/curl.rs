//! curl: what people type, and what its scripts do to servers.

use std::net::SocketAddr;
use std::process::Command;

use super::answer::{self, Door, Head};
use super::stage::{HOST, Stage};
use crate::support::programs;

const TENANT: &str = "curl-user";

/// How the key comes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Key {
    Header,
    Bearer,
    Query,
}

/// How bodies compare.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Compare {
    Bytes,
    /// Lines of JSON in which httpbin lists headers in the order in which they came, which says nothing
    /// (RFC 9110, section 5.3).
    JsonLines,
}

struct Case {
    /// Units that all answers together cost; summed over meters.
    cost: u64,
    /// Arguments; those that begin with `/` are paths at [`HOST`], `UPLOAD` is a file of 3 MiB, `EXPECT` is
    /// `Expect: 100-continue` at the gateway. It answers that itself and does not pass it on, so at httpbin, which
    /// repeats all headers that it gets, it is left out.
    args: &'static str,
    key: Key,
    compare: Compare,
}

const fn case(cost: u64, args: &'static str) -> Case {
    Case { cost, args, key: Key::Header, compare: Compare::Bytes }
}

impl Case {
    const fn with(self, key: Key) -> Self {
        Self { key, ..self }
    }

    const fn json_lines(self) -> Self {
        Self { compare: Compare::JsonLines, ..self }
    }
}

const CASES: &[Case] = &[
    // Targets, headers, methods.
    case(1, "/get?a=1&b=%20x&a=2&c=+&d"),
    case(1, "/get?x=1&b=2").with(Key::Query),
    case(1, "/get").with(Key::Query),
    case(1, "/get?x=1").with(Key::Bearer),
    case(1, "/anything/a%20b/%C3%A9,(c)?x=%2F&y=a+b&z=%zz"),
    case(1, "/anything/a%2Fb"),
    case(1, "/headers -H X-Twice:1 -H X-Twice:2 -H X-Empty; -H X-Utf8:grüße -A agent/1.0"),
    case(1, "--globoff /get?list[]=1&list[]=2&more={a|b^c`d\\e}"),
    case(1, "/anything/é"),
    case(1, "--path-as-is /anything/a;b=1/c?~!*'()@:$"),
    case(1, "-X DELETE /anything/delete"),
    case(2, "-X PATCH --json {\"a\":1} /patch"),
    case(1, "-X TRACE /anything/trace"),
    case(1, "-X OPTIONS /get"),
    case(1, "-I /get"),
    case(2, "-I /bytes/100?seed=1"),
    case(2, "-I /stream/3"),
    case(2, "-I /image/png"),
    // Bodies up.
    case(2, "--json {\"name\":\"Ölçü\",\"n\":[1,2.5,null]} /post"),
    case(2, "-d a=1&b=%26 --data-urlencode c=ü /post"),
    case(2, "-X POST -d @EMPTY /post"),
    case(3, "-T UPLOAD -H Expect: /put"),
    case(3, "-T - -H Expect: /put"),
    case(1, "-T - -H Expect: /anything/chunked"),
    case(3, "-T UPLOAD -H EXPECT /put"),
    case(3, "-T - -H EXPECT /put"),
    case(1, "-X GET -d in-a-get /anything"),
    // Bodies down.
    case(1, "--compressed /gzip"),
    case(1, "--compressed /deflate"),
    case(1, "--compressed /brotli"),
    case(2, "/bytes/100000?seed=7"),
    case(2, "/stream-bytes/50000?seed=1&chunk_size=1000"),
    case(2, "--raw /stream-bytes/20000?seed=1&chunk_size=1000 -0"),
    case(2, "/stream/20").json_lines(),
    case(2, "/image/jpeg"),
    case(1, "/html"),
    case(1, "/encoding/utf8"),
    case(3, "/drip?duration=0.2&numbytes=5&code=203"),
    case(5, "/delay/0.2"),
    // Caches and parts.
    case(2, "-r 0-9 /range/100"),
    case(2, "-r -5 /range/100"),
    case(0, "-r 200-300 /range/100"),
    case(1, "-H If-None-Match:abc /etag/abc"),
    case(1, "-H If-Modified-Since:x /cache"),
    case(0, "-H If-Match:other /etag/abc"),
    case(1, "/response-headers?Set-Cookie=a=1&Set-Cookie=b=2&X-Many=1&X-Many=2&Via=1.1+me"),
    // Redirects, cookies, other people's credentials.
    case(4, "-L /redirect/3"),
    case(3, "-L /absolute-redirect/2"),
    case(3, "-L --json {\"a\":1} /redirect-to?url=/post&status_code=307"),
    case(2, "-L -b FOO=bar -c JAR /cookies/set?flavor=oat"),
    case(1, "-u user:secret --basic /basic-auth/user/secret"),
    case(1, "-u user:secret --digest /digest-auth/auth/user/secret"),
    case(0, "-u user:wrong --basic /basic-auth/user/secret"),
    // Statuses; here errors cost too.
    case(1, "/status/204"),
    case(1, "/status/304"),
    case(1, "/status/418"),
    case(1, "/status/503"),
    case(1, "-X POST /status/402"),
    case(0, "/no/such/page"),
    case(0, "-X POST /get"),
    // Old and reused connections.
    case(1, "-0 /get"),
    case(2, "-0 /stream/5").json_lines(),
    case(2, "-0 -I /bytes/10"),
    case(2, "-0 -d a=1 /post"),
    case(2, "-H Connection:close /bytes/3?seed=2"),
    case(4, "/get /get?again /bytes/3?seed=2"),
];

/// What curl got: every head in its order, and all bodies together.
struct Got {
    heads: Vec<Head>,
    body: Vec<u8>,
}

struct Curl<'a> {
    stage: &'a Stage,
    door: Door,
    key: &'a str,
    input: &'a [u8],
}

impl Curl<'_> {
    fn run(&self, case: &Case) -> Got {
        let address = match self.door {
            Door::Direct => self.stage.direct(),
            Door::Gateway => self.stage.proxy(),
        };
        let mut command = base(address);
        let in_header = (case.key == Key::Header).then_some(self.key);
        for (name, value) in answer::headers(self.door, TENANT, in_header) {
            command.arg("-H").arg(format!("{name}: {value}"));
        }
        if case.key == Key::Bearer && self.door == Door::Gateway {
            command.arg("-H").arg(format!("Authorization: Bearer {}", self.key));
        }
        for arg in case.args.split(' ') {
            command.arg(self.argument(arg, case.key));
        }
        let output = programs::run(&mut command, self.input);
        assert!(output.status.success(), "{:?} {}: {}", self.door, case.args, String::from_utf8_lossy(&output.stderr));
        Got::parse(&output.stdout)
    }

    fn argument(&self, arg: &str, key: Key) -> String {
        let folder = self.stage.folder.path();
        let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
        match arg {
            "UPLOAD" => file("upload"),
            "EXPECT" if self.door == Door::Direct => "Expect:".to_owned(),
            "EXPECT" => "Expect: 100-continue".to_owned(),
            "@EMPTY" => format!("@{}", file("empty")),
            "JAR" => file(if self.door == Door::Direct { "direct.jar" } else { "gateway.jar" }),
            path if path.starts_with('/') && key == Key::Query && self.door == Door::Gateway => {
                // In the middle, so that cutting it out has to mend both sides.
                let url = match path.split_once('&') {
                    Some((before, after)) => format!("{before}&api_key={}&{after}", self.key),
                    None => format!("{path}?api_key={}", self.key),
                };
                format!("http://{HOST}{url}")
            }
            path if path.starts_with('/') => format!("http://{HOST}{path}"),
            other => other.to_owned(),
        }
    }
}

fn base(address: SocketAddr) -> Command {
    let mut command = Command::new("curl");
    // Nothing of the machine's own: neither ~/.curlrc nor a proxy from the environment.
    command.env_clear().args(["-q", "-sS", "-i", "--max-time", "20", "--connect-to"]);
    command.arg(format!("{HOST}:80:{}:{}", address.ip(), address.port()));
    command
}

impl Got {
    fn parse(said: &[u8]) -> Self {
        let (mut heads, mut body, mut rest) = (Vec::new(), Vec::new(), said);
        while let Some(at) = find(rest, b"HTTP/1.") {
            body.extend_from_slice(&rest[..at]);
            let end = at + find(&rest[at..], b"\r\n\r\n").unwrap();
            heads.push(Head::parse(std::str::from_utf8(&rest[at..end]).unwrap()));
            rest = &rest[end + 4..];
        }
        body.extend_from_slice(rest);
        Self { heads, body }
    }

    fn finals(&self) -> impl Iterator<Item = &Head> {
        self.heads.iter().filter(|head| !head.is_interim())
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn lines(body: &[u8]) -> Vec<serde_json::Value> {
    body.split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect()
}

#[test]
fn curl_gets_from_the_gateway_what_it_gets_from_httpbin() {
    let Some(stage) = Stage::set() else { return };
    let upload: Vec<u8> = (0..3 * 1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    std::fs::write(stage.folder.path().join("upload"), &upload).unwrap();
    std::fs::write(stage.folder.path().join("empty"), b"").unwrap();
    let key = stage.tenant(TENANT, "standard");
    let curl = |door| Curl { stage: &stage, door, key: &key, input: &upload[..300_000] };
    let differences: Vec<String> = CASES
        .iter()
        .filter_map(|case| differences(case, &curl(Door::Direct).run(case), &curl(Door::Gateway).run(case)))
        .collect();
    assert!(differences.is_empty(), "{} of {}:\n{}", differences.len(), CASES.len(), differences.join("\n"));
    let cost = CASES.iter().map(|case| case.cost).sum::<u64>();
    let books = stage.balance(TENANT, &[]);
    assert_eq!(books.values().map(|(units, _)| units).sum::<u64>(), cost, "{books:?}");
    refusals(&stage);
}

/// What is not the same at both doors, in words.
fn differences(case: &Case, direct: &Got, through: &Got) -> Option<String> {
    let heads = |got: &Got, door| got.heads.iter().map(|head| head.common(door)).collect::<Vec<_>>();
    let (ours, mut theirs) = (heads(through, Door::Gateway), heads(direct, Door::Direct));
    if case.args.contains("EXPECT") {
        theirs.insert(0, Head::parse("HTTP/1.1 100 Continue\r\n"));
    }
    let same = match case.compare {
        Compare::Bytes => through.body == direct.body,
        Compare::JsonLines => lines(&through.body) == lines(&direct.body),
    };
    let announced: u64 = through.finals().filter_map(Head::cost).sum();
    if ours == theirs && same && announced == case.cost {
        return None;
    }
    let show = |got: &Got| String::from_utf8_lossy(&got.body[..got.body.len().min(1_000)]).into_owned();
    Some(format!(
        "=== {}\n--- httpbin: {theirs:#?}\n{}\n--- gateway, cost {announced}, expected {}: {ours:#?}\n{}\n",
        case.args,
        show(direct),
        case.cost,
        show(through)
    ))
}

/// What those get who may not, in curl's eyes.
fn refusals(stage: &Stage) {
    let key = stage.spent("curl-free");
    let curl = Curl { stage, door: Door::Gateway, key: &key, input: &[] };
    for args in ["/get", "-I /get", "-0 /get", "-T UPLOAD -H Expect: /put", "-T UPLOAD -H Expect:100-continue /put"] {
        let got = curl.run(&case(0, args));
        // No `100 Continue`: nobody wants the upload.
        let [head] = &got.heads[..] else { panic!("{args}: {:?}", got.heads) };
        head.assert_payment_required(&got.body);
        assert_eq!(got.body.is_empty(), args.contains("-I"), "{args}");
    }
    let got = curl.run(&case(0, "/html").with(Key::Query));
    got.heads[0].assert_payment_required(&got.body);
    // Open to all, and so to those who have spent everything.
    assert_eq!(curl.run(&case(0, "/robots.txt")).heads[0].status(), 200);
    let get = ("GET", "/get");
    let put = ("PUT", "/put");
    let books = stage.balance("curl-free", &[get, get, get, put, put, ("GET", "/html")]);
    assert_eq!(books.values().map(|(units, _)| units).sum::<u64>(), 100);
}
