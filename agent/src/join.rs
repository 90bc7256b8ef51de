//! `ringspan join`: this host as a member of a KubeSpan mesh.

mod session;

use std::io::{self, Write as _};
use std::path::PathBuf;

use ringspan::HostRoutingError;
use ringspan::control::kubespan::config::ConfigError;
use ringspan::control::kubespan::{FWMARK_EGRESS, MachineConfig};
use ringspan::control::member::{Member, MemberBuilder, MemberError};

use crate::cli::Join;
use crate::config::{LogLevel, OuterChoice};
use crate::failure::Failure;
use crate::signals::EndSignals;
use crate::status::StatusSocket;
use crate::up::{UpError, machine};
use crate::{logging, privilege};

/// Why this host is no member.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum JoinError {
    #[error("{}: {source}", file.display())]
    Config {
        file: PathBuf,
        source: Box<ConfigError>,
    },
    /// It names the file itself.
    #[error("{0}")]
    Unreadable(#[source] ConfigError),
    #[error("{}: {source}", file.display())]
    Member {
        file: PathBuf,
        source: Box<MemberError>,
    },
    #[error("{0}; --no-routes does without")]
    Routing(#[source] HostRoutingError),
    #[error("{0}")]
    LeftBehind(#[source] HostRoutingError),
}

impl JoinError {
    /// Whether another machine configuration would help.
    pub(crate) fn is_configuration(&self) -> bool {
        match self {
            Self::Config { .. } => true,
            Self::Member { source, .. } => matches!(
                **source,
                MemberError::Disabled
                    | MemberError::NoClusterId
                    | MemberError::NoClusterSecret
                    | MemberError::NoDiscovery
                    | MemberError::Url { .. }
            ),
            Self::Unreadable(_) | Self::Routing(_) | Self::LeftBehind(_) => false,
        }
    }
}

/// Joins until a signal ends it, or only checks the configuration.
pub(crate) fn run(options: &Join) -> Result<(), Failure> {
    let file = &options.machineconfig;
    let config = MachineConfig::load(file).map_err(|source| match source {
        ConfigError::Read { .. } => JoinError::Unreadable(source),
        _ => JoinError::Config {
            file: file.clone(),
            source: Box::new(source),
        },
    })?;
    let of_file = |source| JoinError::Member {
        file: file.clone(),
        source: Box::new(source),
    };
    let builder = builder(&config, options);
    builder.check().map_err(of_file)?;
    if options.check {
        return Ok(report(options, &config)?);
    }

    logging::start(LogLevel::default());
    if config.advertise_kubernetes_networks && options.advertise.is_empty() {
        tracing::warn!(
            "{}: advertiseKubernetesNetworks is set, and this host does not know of any pods' \
             networks: give them with --advertise",
            file.display()
        );
    }
    let outer = OuterChoice {
        driver: options.outer,
        interface: options.interface.clone(),
        ..OuterChoice::default()
    };
    let card = machine::check(&options.name, &outer, options.listen_port).map_err(UpError::from)?;
    privilege::check(outer.driver)?;
    // Before any thread is started: the socket's mode comes from the process's umask.
    let socket = StatusSocket::bind(&options.run_dir.path, &options.name)?;
    let signals = EndSignals::catch().map_err(|source| UpError::Io {
        doing: "catching signals",
        source,
    })?;
    let member = builder.build().map_err(of_file)?;
    session::run(
        options,
        &config,
        crate::up::tunnel::outer(&outer, card),
        member,
        socket,
        signals,
    )
}

fn builder(config: &MachineConfig, options: &Join) -> MemberBuilder {
    let mut builder = Member::builder(config)
        .state_dir(&options.state_dir)
        .advertise(options.advertise.clone())
        .observe(options.observe)
        .fwmark(FWMARK_EGRESS);
    if let Some(name) = &options.hostname {
        builder = builder.hostname(name.clone());
    }
    builder
}

/// What `--check` found.
fn report(options: &Join, config: &MachineConfig) -> io::Result<()> {
    let services: Vec<&str> = config
        .discovery_services
        .iter()
        .map(|service| service.endpoint.as_str())
        .collect();
    writeln!(
        io::stdout().lock(),
        "{}: good: interface {}, UDP port {}, MTU {}, discovery: {}",
        options.machineconfig.display(),
        options.name,
        options.listen_port,
        config.mtu,
        services.join(", ")
    )
}
