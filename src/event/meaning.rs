//! What the name of an event means for a scanner.

use super::Malformed;

/// Families of events without new bytes to scan.
/// Sources: documentation of AWS S3 and Ceph, source code of `MinIO` and `RustFS`.
const OTHER_FAMILIES: &[&str] = &[
    "ObjectAccessed",
    "ObjectTagging",
    "ObjectAcl",
    "ObjectAnnotation",
    "ObjectRestore",
    "ObjectTransition",
    "ObjectReplication",
    "ObjectSynced",
    "ObjectLock",
    "LifecycleTransition",
    "IntelligentTiering",
    "Replication",
    "ReducedRedundancyLostObject",
    "Scanner",
    "BucketCreated",
    "BucketRemoved",
];

/// Families of events about removals.
const REMOVALS: &[&str] =
    &["ObjectRemoved", "LifecycleExpiration", "LifecycleDelMarkerExpiration", "ObjectLifecycle"];

/// Changes of metadata that MinIO announces as `ObjectCreated`. Our own tagging causes
/// `PutTagging`.
const METADATA_CHANGES: &[&str] =
    &["PutTagging", "DeleteTagging", "PutRetention", "PutLegalHold", "ACL"];

/// New bytes that were not uploaded: replicated between sites (Ceph), or restored from an archive
/// (AWS).
const OTHER_CREATIONS: &[&str] =
    &["ObjectSynced:Create", "Replication:Create", "ObjectRestore:Completed"];

/// What an event means for a scanner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// Bytes that were not scanned are readable.
    Creation,
    /// Something was removed; an older version may be readable now.
    Removal,
    /// Nothing to scan.
    Nothing,
}

/// What the event `name` means, with or without the prefix `s3:`.
///
/// # Errors
/// [`Malformed::UnknownEvent`] for a family that no known store sends.
pub(super) fn meaning(name: &str) -> Result<Meaning, Malformed> {
    let name = name.strip_prefix("s3:").unwrap_or(name);
    let (family, kind) = name.split_once(':').unwrap_or((name, ""));
    match family {
        _ if OTHER_CREATIONS.contains(&name) => Ok(Meaning::Creation),
        "ObjectCreated" if METADATA_CHANGES.contains(&kind) => Ok(Meaning::Nothing),
        "ObjectCreated" => Ok(Meaning::Creation),
        // A new delete marker hides what is below it.
        _ if REMOVALS.contains(&family) && kind.ends_with("MarkerCreated") => Ok(Meaning::Nothing),
        _ if REMOVALS.contains(&family) => Ok(Meaning::Removal),
        _ if OTHER_FAMILIES.contains(&family) => Ok(Meaning::Nothing),
        _ => Err(Malformed::UnknownEvent),
    }
}
