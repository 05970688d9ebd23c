//! TLS 1.3 as libp2p speaks it, with the cipher that this machine computes
//! fastest.
//!
//! The library offers ChaCha20-Poly1305 first, everywhere. Processors with AES
//! instructions encrypt several times as fast with AES-GCM, and encryption is a
//! quarter of what a transfer costs. The dialer's order decides, so only its half
//! differs here; the listener's half is the library's. Both interoperate with any
//! libp2p: the same suites are offered, in another order.
//!
//! What makes a peer's certificate good (exactly one, self-signed, with the
//! signature of the peer's own key: libp2p's TLS specification) is the library's
//! judgement in every case.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use futures::future::BoxFuture;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use futures_rustls::TlsConnector;
use libp2p::PeerId;
use libp2p::core::upgrade::{InboundConnectionUpgrade, OutboundConnectionUpgrade, UpgradeInfo};
use libp2p::identity::Keypair;
use libp2p::tls::{self, TlsStream, UpgradeError, certificate};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, CipherSuite, ClientConfig, DigitallySignedStruct, PeerIncompatible,
    SignatureScheme,
};

/// Suites in the order in which they are offered by a processor with AES
/// instructions. All three are as strong as the rest of the handshake.
const WITH_AES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// Signatures of a handshake that the library can check and TLS 1.3 allows.
const SCHEMES: [SignatureScheme; 6] = [
    SignatureScheme::ED25519,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ECDSA_NISTP384_SHA384,
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::RSA_PSS_SHA384,
    SignatureScheme::RSA_PSS_SHA512,
];

/// The security upgrade of a connection, in place of [`tls::Config`].
#[derive(Clone)]
pub struct Tls {
    listener: tls::Config,
    dialer: Arc<ClientConfig>,
}

impl Tls {
    /// For the node with this key.
    pub fn new(key: &Keypair) -> Result<Self, certificate::GenError> {
        Ok(Self {
            listener: tls::Config::new(key)?,
            dialer: Arc::new(dialer(key, has_aes())?),
        })
    }
}

/// Whether the processor has AES and the multiplication that GCM needs.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("aes")
            && std::arch::is_x86_feature_detected!("pclmulqdq")
    }
    #[cfg(target_arch = "aarch64")]
    {
        std::arch::is_aarch64_feature_detected!("aes")
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    {
        false
    }
}

/// The library's settings for a dialer, with the suites in our order.
fn dialer(key: &Keypair, has_aes: bool) -> Result<ClientConfig, certificate::GenError> {
    let library = tls::make_client_config(key, None)?;
    let mut provider = CryptoProvider::clone(library.crypto_provider());
    if has_aes {
        let place = |suite| WITH_AES.iter().position(|known| *known == suite);
        // One that is not known here goes last.
        provider
            .cipher_suites
            .sort_by_key(|suite| place(suite.suite()).unwrap_or(WITH_AES.len()));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the library's suites and groups are of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PeerCertificate))
        .with_client_cert_resolver(library.client_auth_cert_resolver);
    config.alpn_protocols = library.alpn_protocols;
    // Sessions are remembered by server name, and here all servers have the same.
    config.resumption = Resumption::disabled();
    Ok(config)
}

/// Asks the library about a listener's certificate. Which peer it proves is
/// compared with the one that was dialled by the swarm.
#[derive(Debug)]
struct PeerCertificate;

impl ServerCertVerifier for PeerCertificate {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if !others.is_empty() {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        certificate::parse(certificate)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        certificate::parse(certificate)?.verify_signature(
            signature.scheme,
            message,
            signature.signature(),
        )?;
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        SCHEMES.to_vec()
    }
}

impl UpgradeInfo for Tls {
    type Info = &'static str;
    type InfoIter = std::iter::Once<Self::Info>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.listener.protocol_info()
    }
}

impl<C> InboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, TlsStream<C>);
    type Error = UpgradeError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_inbound(self, socket: C, info: Self::Info) -> Self::Future {
        self.listener.upgrade_inbound(socket, info)
    }
}

impl<C> OutboundConnectionUpgrade<C> for Tls
where
    C: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    type Output = (PeerId, TlsStream<C>);
    type Error = UpgradeError;
    type Future = BoxFuture<'static, Result<Self::Output, Self::Error>>;

    fn upgrade_outbound(self, socket: C, _info: Self::Info) -> Self::Future {
        async move {
            // An address is never sent as a server name: the specification wants
            // that field left out.
            let nobody = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
            let stream = TlsConnector::from(self.dialer)
                .connect(nobody, socket)
                .await
                .map_err(UpgradeError::ClientUpgrade)?;
            let peer = match stream.get_ref().1.peer_certificates() {
                Some([certificate]) => certificate::parse(certificate)?.peer_id(),
                _ => {
                    let problem = io::Error::other("not exactly one certificate");
                    return Err(UpgradeError::ClientUpgrade(problem));
                }
            };
            Ok((peer, stream.into()))
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use futures::{AsyncReadExt, AsyncWriteExt};
    use tokio_util::compat::TokioAsyncReadCompatExt;

    use super::*;

    fn tls_with(key: &Keypair, has_aes: bool) -> Tls {
        Tls {
            listener: tls::Config::new(key).unwrap(),
            dialer: Arc::new(dialer(key, has_aes).unwrap()),
        }
    }

    /// Connects the two and gives what each learnt of the other, and the suite.
    async fn connect<D, L>(dialer: D, listener: L) -> (PeerId, PeerId, CipherSuite)
    where
        D: OutboundConnectionUpgrade<Socket, Output = Secured, Error = UpgradeError>,
        D: UpgradeInfo<Info = &'static str>,
        L: InboundConnectionUpgrade<Socket, Output = Secured, Error = UpgradeError>,
        L: UpgradeInfo<Info = &'static str>,
    {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (out, into) = tokio::join!(
            dialer.upgrade_outbound(near.compat(), "/tls/1.0.0"),
            listener.upgrade_inbound(far.compat(), "/tls/1.0.0"),
        );
        let ((listener, mut out), (dialer, mut into)) = (out.unwrap(), into.unwrap());
        out.write_all(b"hello").await.unwrap();
        out.flush().await.unwrap();
        let mut heard = [0; 5];
        into.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        let TlsStream::Client(stream) = &out else {
            panic!("the dialer is TLS's client");
        };
        let suite = stream.get_ref().1.negotiated_cipher_suite().unwrap();
        (listener, dialer, suite.suite())
    }

    type Socket = tokio_util::compat::Compat<tokio::io::DuplexStream>;
    type Secured = (PeerId, TlsStream<Socket>);

    #[tokio::test]
    async fn both_learn_who_the_other_is_and_use_the_dialers_favourite_cipher() {
        let (one, two) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        for (has_aes, suite) in [
            (true, CipherSuite::TLS13_AES_128_GCM_SHA256),
            (false, CipherSuite::TLS13_CHACHA20_POLY1305_SHA256),
        ] {
            let found = connect(tls_with(&one, has_aes), tls_with(&two, true)).await;
            let (listener, dialer, used) = found;
            assert_eq!(listener, two.public().to_peer_id());
            assert_eq!(dialer, one.public().to_peer_id());
            assert_eq!(used, suite);
        }
    }

    #[tokio::test]
    async fn the_librarys_own_nodes_connect_in_both_directions() {
        let (one, two) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let stock = || tls::Config::new(&two).unwrap();
        let (listener, dialer, _) = connect(tls_with(&one, true), stock()).await;
        assert_eq!(listener, two.public().to_peer_id());
        assert_eq!(dialer, one.public().to_peer_id());
        let (listener, dialer, _) = connect(stock(), tls_with(&one, true)).await;
        assert_eq!(listener, one.public().to_peer_id());
        assert_eq!(dialer, two.public().to_peer_id());
    }

    #[test]
    fn a_certificate_that_does_not_prove_a_peer_or_is_one_of_two_is_refused() {
        let (good, _) = certificate::generate(&Keypair::generate_ed25519()).unwrap();
        let judge = |certificate: &CertificateDer<'_>, others: &[CertificateDer<'_>]| {
            let name = ServerName::IpAddress(Ipv4Addr::UNSPECIFIED.into());
            PeerCertificate
                .verify_server_cert(certificate, others, &name, &[], UnixTime::now())
                .is_ok()
        };
        assert!(judge(&good, &[]));
        assert!(!judge(&good, std::slice::from_ref(&good)));
        // The signed part stands first within the outermost sequence; both have a
        // length of two bytes. Any changed byte of it breaks a signature.
        assert_eq!(
            (&good[0..2], &good[4..6]),
            (&[0x30, 0x82][..], &[0x30, 0x82][..])
        );
        let signed = 8 + usize::from(u16::from_be_bytes([good[6], good[7]]));
        for place in 0..signed {
            let mut bytes = good.to_vec();
            bytes[place] ^= 1;
            assert!(!judge(&bytes.into(), &[]), "byte {place}");
        }
    }
}
