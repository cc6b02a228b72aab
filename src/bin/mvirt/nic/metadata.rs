//! `mvirt nic metadata`

use super::get;
use crate::{Failure, complete, connect::Client, mask::Mask, output::Output};
use clap::Args;
use mvirt_net::proto::{Nic, SetNicMetadataRequest};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

const EXAMPLES: &str = "\
Examples:
  mvirt nic metadata vm1 --user-data cloud-config.yaml --ssh-key ~/.ssh/id_ed25519.pub
  mvirt nic metadata vm1 --extra role=db --token-required true
  mvirt nic metadata vm1                       # shows what there is";
/// More than any daemon takes.
const MAX_FILE: u64 = 1 << 20;

/// What is not named stays as it is.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Metadata {
    /// Name or id
    #[arg(add = complete::nics())]
    nic: String,
    /// A file with a script or cloud-config, at most 64 KiB; an empty one removes it
    #[arg(long, value_name = "FILE")]
    user_data: Option<PathBuf>,
    /// As --user-data, of who made the guest's image
    #[arg(long, value_name = "FILE")]
    vendor_data: Option<PathBuf>,
    /// A file with public keys, one a line, in place of those there were; may be given several
    /// times
    #[arg(long, value_name = "FILE")]
    ssh_key: Vec<PathBuf>,
    /// What else is to be known, in place of what there was; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    extra: Vec<(String, String)>,
    /// Whether whoever asks must have a token, as of EC2's version 2
    #[arg(long, value_name = "BOOL")]
    token_required: Option<bool>,
    /// How many hops a token may make [default: 1]
    #[arg(long, value_name = "HOPS", value_parser = clap::value_parser!(u32).range(1..=64))]
    token_hop_limit: Option<u32>,
    /// First remove everything that there was
    #[arg(long)]
    clear: bool,
    /// Check only: change nothing
    #[arg(long)]
    dry_run: bool,
}

/// `KEY=VALUE`
fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.into(), value.into()))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut octets = Vec::new();
    let file = File::open(path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut octets));
    file.map_err(|error| Failure::Usage(format!("{}: {error}", path.display())))?;
    Ok(octets)
}

/// Returns the keys in these files.
fn keys(paths: &[PathBuf]) -> Result<Vec<String>, Failure> {
    let mut keys = Vec::new();
    for path in paths {
        let text = String::from_utf8(read(path)?);
        let text = text.map_err(|_| Failure::Usage(format!("{}: no text", path.display())))?;
        let lines = text.lines().map(str::trim);
        keys.extend(lines.filter(|it| !it.is_empty() && !it.starts_with('#')).map(str::to_owned));
    }
    Ok(keys)
}

impl Metadata {
    pub(super) async fn run(self, client: &mut Client, out: &Output) -> Result<(), Failure> {
        let now = get(client, self.nic).await?;
        let mut request = SetNicMetadataRequest {
            id: now.id.clone(),
            validate_only: self.dry_run,
            ..Default::default()
        };
        let mut mask = Mask::default();
        let octets = |path: Option<PathBuf>| path.map(|path| read(&path)).transpose();
        mask.set("user_data", &mut request.user_data, octets(self.user_data)?);
        mask.set("vendor_data", &mut request.vendor_data, octets(self.vendor_data)?);
        let keys = keys(&self.ssh_key)?;
        let given = (!self.ssh_key.is_empty()).then_some(keys);
        mask.set("public_keys", &mut request.public_keys, given);
        let extra: BTreeMap<_, _> = self.extra.into_iter().collect();
        mask.set("extra", &mut request.extra, (!extra.is_empty()).then_some(extra));
        mask.set("token_required", &mut request.token_required, self.token_required);
        mask.set("token_hop_limit", &mut request.token_hop_limit, self.token_hop_limit);
        request.update_mask = match mask.into_paths("--user-data, --ssh-key") {
            // Without a mask all is replaced.
            _ if self.clear => None,
            Ok(mask) => mask,
            Err(_) => return show(&now, out),
        };
        show(&client.set_nic_metadata(request).await?.into_inner(), out)?;
        if self.dry_run {
            out.dry_run();
        }
        Ok(())
    }
}

fn show(nic: &Nic, out: &Output) -> Result<(), Failure> {
    let data = nic.metadata.unwrap_or_default();
    let served = if data.served { "yes" } else { "no: its network has no metadata" };
    let rows = [
        ("served", served.into()),
        ("user data", octets(data.user_data_octets).into()),
        ("vendor data", octets(data.vendor_data_octets).into()),
        ("ssh keys", data.public_keys.into()),
        ("extra", data.extra.into()),
        ("token", if data.token_required { "required" } else { "optional" }.into()),
    ];
    out.object(nic, &nic.name, &rows)
}

fn octets(count: u32) -> String {
    if count == 0 { String::new() } else { format!("{count} octets") }
}
