//! Key sets from a URL: a small HTTP server in this process serves them, and counts.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::super::jwks::Pace;
use super::*;

/// Answers each request with what `body` then holds; `None` is a 503.
struct Server {
    address: SocketAddr,
    body: Arc<Mutex<Option<Vec<u8>>>>,
    requests: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    /// Where it is set, every answer waits for a word.
    gate: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(body: Option<String>) -> Server {
        Server::with_gate(body, None)
    }

    fn gated(body: Option<String>) -> Server {
        let (sender, receiver) = channel();
        let mut server = Server::with_gate(body, Some(receiver));
        server.gate = Some(sender);
        server
    }

    fn with_gate(body: Option<String>, gate: Option<Receiver<()>>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let body = Arc::new(Mutex::new(body.map(String::into_bytes)));
        let (requests, stop) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (own_body, own_requests, own_stop) = (body.clone(), requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own_stop.load(Ordering::SeqCst) {
                    return;
                }
                own_requests.fetch_add(1, Ordering::SeqCst);
                if let Some(gate) = &gate {
                    let _ = gate.recv();
                }
                let body = own_body.lock().unwrap().clone();
                let stream = stream.unwrap();
                stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                answer(stream, body);
            }
        });
        Server { address, body, requests, stop, gate: None, thread: Some(thread) }
    }

    fn url(&self) -> String {
        format!("http://{}/jwks.json", self.address)
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }

    fn serve(&self, body: Option<String>) {
        *self.body.lock().unwrap() = body.map(String::into_bytes);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        self.gate = None;
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn answer(mut stream: impl Read + Write, body: Option<Vec<u8>>) {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|read| read == 1) {
        request.extend(byte);
    }
    let (status, body) = body.map_or(("503 Away", Vec::new()), |body| ("200 OK", body));
    let _ =
        write!(stream, "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(&body);
}

/// The public half of a fixture, as a key set has it.
fn jwk(kind: &str, id: Option<&str>, more: &str) -> String {
    let key = PublicKey::from_pem(&fixture(&format!("{kind}.pub.pem"))).unwrap().0.decoding;
    let bytes = key.try_get_as_bytes().unwrap();
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let parameters = match kind {
        "ec" => format!(
            r#""kty":"EC","crv":"P-256","x":"{}","y":"{}""#,
            encode(&bytes[1..33]),
            encode(&bytes[33..])
        ),
        "ec384" => format!(
            r#""kty":"EC","crv":"P-384","x":"{}","y":"{}""#,
            encode(&bytes[1..49]),
            encode(&bytes[49..])
        ),
        "ed25519" => format!(r#""kty":"OKP","crv":"Ed25519","x":"{}""#, encode(bytes)),
        // PKCS#1 of a 2048-bit key: two headers and a sign byte, the modulus, a header, the exponent.
        "rsa" => format!(r#""kty":"RSA","n":"{}","e":"{}""#, encode(&bytes[9..265]), encode(&bytes[267..])),
        _ => panic!(),
    };
    let id = id.map(|id| format!(r#","kid":"{id}""#)).unwrap_or_default();
    format!("{{{parameters}{id}{more}}}")
}

fn set(keys: &[String]) -> Option<String> {
    Some(format!(r#"{{"keys":[{}]}}"#, keys.join(",")))
}

const SLOW: Pace = Pace {
    refresh: Duration::from_secs(3600),
    retry: Duration::from_secs(3600),
    pause: Duration::from_secs(3600),
    timeout: Duration::from_secs(20),
};
const EAGER: Pace = Pace { pause: Duration::ZERO, ..SLOW };

fn verifier(server: &Server, pace: Pace) -> Verifier {
    let jwks = Jwks::start_with(&server.url(), Vec::new(), pace).unwrap();
    Verifier { jwks: Some(Arc::new(jwks)), ..Verifier::from_config(&Auth::default()).unwrap() }
}

fn token(kind: &str, id: Option<&str>) -> String {
    let Value::Object(claims) = json!({ "sub": kind }) else { panic!() };
    mint(&private(kind), id, &claims).unwrap()
}

fn said(verifier: &Verifier, token: &str) -> Result<String, String> {
    verifier.verify(token, NOW).map(|claims| claims.player.to_string()).map_err(|failure| failure.message)
}

#[test]
fn keys_of_every_kind_are_fetched_and_chosen_by_id_or_algorithm() {
    let keys = [
        jwk("rsa", Some("r"), ""),
        jwk("ec", Some("e"), ""),
        jwk("ec384", Some("f"), ""),
        jwk("ed25519", Some("d"), ""),
    ];
    let server = Server::start(set(&keys));
    let verifier = verifier(&server, SLOW);
    for (kind, id) in [("rsa", "r"), ("ec", "e"), ("ec384", "f"), ("ed25519", "d")] {
        assert_eq!(said(&verifier, &token(kind, Some(id))).as_deref(), Ok(kind));
        assert_eq!(said(&verifier, &token(kind, None)).as_deref(), Ok(kind));
    }
    assert_eq!(server.requests(), 1);
}

#[test]
fn a_keys_own_algorithm_and_use_pin_it() {
    let keys = [
        jwk("rsa", Some("r"), r#","alg":"PS256","use":"sig""#),
        jwk("ec", Some("e"), r#","use":"enc""#),
        jwk("ed25519", Some("d"), r#","alg":"RS256""#),
        format!(r#"{{"kty":"oct","kid":"o","alg":"HS256","k":"{}"}}"#, URL_SAFE_NO_PAD.encode(SECRET)),
        r#"{"kty":"quantum"}"#.to_owned(),
        "5".to_owned(),
    ];
    let server = Server::start(set(&keys));
    let verifier = verifier(&server, SLOW);
    let pss = minted(&private("rsa").with_pss().unwrap(), json!({ "sub": "pss" }));
    assert_eq!(said(&verifier, &pss).as_deref(), Ok("pss"));
    let foreign = |alg: &str| format!("the token's algorithm is `{alg}`; this server takes PS256");
    for (kind, id, alg) in [("rsa", "r", "RS256"), ("ec", "e", "ES256"), ("ed25519", "d", "EdDSA")] {
        assert_eq!(said(&verifier, &token(kind, Some(id))).unwrap_err(), foreign(alg));
    }
    let symmetric = minted(&PrivateKey::hmac(SECRET), json!({ "sub": "a" }));
    assert_eq!(said(&verifier, &symmetric).unwrap_err(), foreign("HS256"));
}

#[test]
fn an_unknown_key_is_fetched_while_the_token_waits() {
    let server = Server::start(set(&[jwk("ec", Some("old"), "")]));
    let verifier = verifier(&server, EAGER);
    assert_eq!(said(&verifier, &token("ec", Some("old"))).as_deref(), Ok("ec"));
    server.serve(set(&[jwk("ed25519", Some("new"), "")]));
    assert_eq!(said(&verifier, &token("ed25519", Some("new"))).as_deref(), Ok("ed25519"));
    assert_eq!(server.requests(), 2);
    let said = said(&verifier, &token("ec", Some("old"))).unwrap_err();
    assert_eq!(said, "the token's algorithm is `ES256`; this server takes EdDSA");
}

#[test]
fn unknown_keys_make_no_storm_of_fetches() {
    let server = Server::start(set(&[jwk("ec", Some("e"), "")]));
    let verifier = verifier(&server, SLOW);
    assert_eq!(said(&verifier, &token("ec", Some("e"))).as_deref(), Ok("ec"));
    for n in 0..100 {
        assert_eq!(
            said(&verifier, &token("ec", Some(&n.to_string()))).unwrap_err(),
            "no key is known for this token: its `kid` is none of this server's"
        );
    }
    assert_eq!(server.requests(), 1);
}

#[test]
fn all_who_wait_share_one_fetch() {
    let server = Server::gated(set(&[jwk("ec", Some("e"), "")]));
    let verifier = verifier(&server, SLOW);
    std::thread::scope(|scope| {
        let waiting: Vec<_> =
            (0..10).map(|_| scope.spawn(|| said(&verifier, &token("ec", Some("e"))))).collect();
        server.gate.as_ref().unwrap().send(()).unwrap();
        for waiter in waiting {
            assert_eq!(waiter.join().unwrap().as_deref(), Ok("ec"));
        }
    });
    assert_eq!(server.requests(), 1);
}

#[test]
fn keys_are_kept_while_the_url_is_away() {
    let server = Server::start(set(&[jwk("ec", Some("e"), "")]));
    let verifier = verifier(&server, EAGER);
    assert_eq!(said(&verifier, &token("ec", Some("e"))).as_deref(), Ok("ec"));
    for away in [None, Some("{}".to_owned()), Some("x".repeat((1 << 20) + 1))] {
        server.serve(away);
        assert!(said(&verifier, &token("rsa", Some("x"))).unwrap_err().ends_with("this server takes ES256"));
        assert_eq!(said(&verifier, &token("ec", Some("e"))).as_deref(), Ok("ec"));
    }
}

#[test]
fn without_any_key_set_a_token_is_refused() {
    let server = Server::start(None);
    let verifier = verifier(&server, SLOW);
    let refused = "the token cannot be verified: the key set could not be fetched yet";
    assert_eq!(said(&verifier, &token("ec", Some("e"))).unwrap_err(), refused);
    assert_eq!(said(&verifier, &token("ec", None)).unwrap_err(), refused);
}

#[test]
fn keys_of_the_configuration_need_no_fetched_ones() {
    let server = Server::start(None);
    let jwks = Jwks::start_with(&server.url(), Vec::new(), SLOW).unwrap();
    let verifier = Verifier { jwks: Some(Arc::new(jwks)), ..Verifier::from_config(&public("ec")).unwrap() };
    assert_eq!(said(&verifier, &token("ec", Some("any"))).as_deref(), Ok("ec"));
}

#[test]
fn the_fetching_thread_ends_with_its_verifier() {
    let server = Server::start(set(&[jwk("ec", Some("e"), "")]));
    let verifier = verifier(&server, SLOW);
    assert!(said(&verifier, &token("ec", Some("e"))).is_ok());
    let shared = verifier.jwks.as_ref().unwrap().shared();
    drop(verifier);
    while Arc::strong_count(&shared) > 1 {
        std::thread::yield_now();
    }
}

/// One TLS connection with its own certificate; returns the address and the certificate.
fn serve_one_with_tls(body: Option<String>) -> (SocketAddr, Vec<u8>, JoinHandle<()>) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let der = certified.cert.der().clone();
    let key = rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![der.clone()], key)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let connection = rustls::ServerConnection::new(Arc::new(config)).unwrap();
        answer(rustls::StreamOwned::new(connection, stream), body.map(String::into_bytes));
    });
    (address, der.to_vec(), thread)
}

#[test]
fn a_key_set_is_fetched_over_tls_from_whom_is_trusted() {
    for trusted in [true, false] {
        let (address, der, thread) = serve_one_with_tls(set(&[jwk("ec", Some("e"), "")]));
        let roots =
            if trusted { vec![ureq::tls::Certificate::from_der(&der).to_owned()] } else { Vec::new() };
        let url = format!("https://localhost:{}/jwks.json", address.port());
        let jwks = Jwks::start_with(&url, roots, SLOW).unwrap();
        let verifier =
            Verifier { jwks: Some(Arc::new(jwks)), ..Verifier::from_config(&Auth::default()).unwrap() };
        assert_eq!(said(&verifier, &token("ec", Some("e"))).is_ok(), trusted);
        drop(verifier);
        thread.join().unwrap();
    }
}
