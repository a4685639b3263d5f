//! The requests about one object, each with a version id or without.

use aws_sdk_s3::operation::delete_object::builders::DeleteObjectFluentBuilder;
use aws_sdk_s3::operation::get_object::builders::GetObjectFluentBuilder;
use aws_sdk_s3::operation::get_object_tagging::builders::GetObjectTaggingFluentBuilder;
use aws_sdk_s3::operation::head_object::builders::HeadObjectFluentBuilder;
use aws_sdk_s3::operation::put_object_tagging::builders::PutObjectTaggingFluentBuilder;

use super::key::for_sdk;
use super::{Identity, Store};
use crate::failure::Stage;

/// A kind of request. What an answer means depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    /// `GetObject`.
    Get,
    /// `HeadObject` or `HeadBucket`.
    Head,
    /// `GetObjectTagging`.
    GetTags,
    /// `PutObjectTagging`.
    SetTags,
    /// `DeleteObject`.
    Delete,
    /// `CopyObject`, or a copy in parts.
    Copy,
    /// `PutObject`.
    Put,
    /// `ListObjectVersions`.
    ListVersions,
    /// `ListBuckets`.
    ListBuckets,
    /// `ListObjectsV2` or `ListObjectVersions`, of a whole bucket.
    List,
    /// `GetBucketVersioning`.
    Versioning,
}

impl Request {
    /// The stage of a delivery that sends such requests.
    pub(super) const fn stage(self) -> Stage {
        match self {
            Self::Get
            | Self::Head
            | Self::ListVersions
            | Self::ListBuckets
            | Self::List
            | Self::Versioning => Stage::Fetch,
            Self::GetTags | Self::SetTags => Stage::Tag,
            Self::Delete => Stage::Delete,
            Self::Copy | Self::Put => Stage::Quarantine,
        }
    }

    /// Whether a bucket as a whole is asked about.
    pub(super) const fn is_about_bucket(self) -> bool {
        matches!(self, Self::List | Self::Versioning)
    }

    /// Whether an S3 error in answer to this request has a body that names a code. Without one,
    /// something in front of the store has answered.
    pub(super) const fn names_codes(self) -> bool {
        !matches!(self, Self::Head)
    }
}

impl Store {
    pub(super) fn get_object(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> GetObjectFluentBuilder {
        let get = self.client.get_object().bucket(bucket).key(for_sdk(key));
        get.set_version_id(version.map(str::to_owned))
    }

    pub(super) fn head_object(
        &self,
        bucket: &str,
        key: &str,
        version: Option<&str>,
    ) -> HeadObjectFluentBuilder {
        let head = self.client.head_object().bucket(bucket).key(for_sdk(key));
        head.set_version_id(version.map(str::to_owned))
    }

    pub(super) fn get_tags(
        &self,
        identity: &Identity,
        version: Option<&str>,
    ) -> GetObjectTaggingFluentBuilder {
        let Identity { bucket, key, .. } = identity;
        let get = self.client.get_object_tagging().bucket(bucket).key(for_sdk(key));
        get.set_version_id(version.map(str::to_owned))
    }

    pub(super) fn put_tags(
        &self,
        identity: &Identity,
        version: Option<&str>,
    ) -> PutObjectTaggingFluentBuilder {
        let Identity { bucket, key, .. } = identity;
        let put = self.client.put_object_tagging().bucket(bucket).key(for_sdk(key));
        put.set_version_id(version.map(str::to_owned))
    }

    pub(super) fn delete_object(
        &self,
        identity: &Identity,
        version: Option<&str>,
    ) -> DeleteObjectFluentBuilder {
        let Identity { bucket, key, .. } = identity;
        let delete = self.client.delete_object().bucket(bucket).key(for_sdk(key));
        delete.set_version_id(version.map(str::to_owned))
    }
}
