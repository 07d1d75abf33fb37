"""Sends the requests of `object_store.py` to S3, or to a server like it, for paths at `s3://`.

boto3 belongs to the extra `s3`. It finds credentials, region and endpoint (`AWS_ENDPOINT_URL`) by
itself. `minio://` is another name of `s3://`, at a server other than Amazon's.
"""

from functools import lru_cache
from typing import IO, Any, Final

import boto3
import urllib3
from botocore import UNSIGNED
from botocore import exceptions as aws
from botocore.config import Config

from trainer.storage.config import StorageConfig
from trainer.storage.failures import ConflictError, MissingError, StorageError, conflict
from trainer.storage.interface import FileFacts
from trainer.storage.object_store import ObjectPage, ObjectStore, brief

_CONNECTIONS: Final = 32
_ACTIONS: Final = {
    "read": "s3:GetObject and s3:ListBucket",
    "list": "s3:ListBucket",
    "write": "s3:PutObject",
    "copy": "s3:GetObject and s3:PutObject",
    "delete": "s3:DeleteObject",
}


class S3Store(ObjectStore):
    """Stores objects in S3; an object's version is its ETag, which equal contents share."""

    name = "S3"
    transient = (
        aws.HTTPClientError,
        aws.EndpointConnectionError,
        aws.IncompleteReadError,
        aws.ResponseStreamingError,
        urllib3.exceptions.HTTPError,
        ConnectionError,
    )

    def get(self, bucket: str, name: str, start: int, length: int, version: str | None) -> bytes:
        """See the base class."""
        try:
            found = self._client().get_object(
                Bucket=bucket,
                Key=name,
                Range=f"bytes={start}-{start + length - 1}",
                **({} if version is None else {"IfMatch": version}),
            )
        except aws.ClientError as error:
            if _status(error) == 416:
                return b""
            raise
        return bytes(found["Body"].read())

    def head(self, bucket: str, name: str) -> FileFacts:
        """See the base class."""
        found = self._client().head_object(Bucket=bucket, Key=name)
        return self.facts({"Size": found["ContentLength"], **found})

    def page(
        self, bucket: str, prefix: str, token: str | None, size: int, delimiter: str | None
    ) -> ObjectPage:
        """See the base class."""
        options = {"ContinuationToken": token, "Delimiter": delimiter}
        found = self._client().list_objects_v2(
            Bucket=bucket,
            Prefix=prefix,
            MaxKeys=size,
            **{key: value for key, value in options.items() if value is not None},
        )
        folders = [each["Prefix"] for each in found.get("CommonPrefixes", ())]
        return ObjectPage(found.get("Contents", []), folders, found.get("NextContinuationToken"))

    def key(self, item: Any) -> str:
        """See the base class."""
        return str(item["Key"])

    def facts(self, item: Any) -> FileFacts:
        """See the base class."""
        return FileFacts(item["Size"], item["ETag"], item["LastModified"].timestamp())

    def upload(
        self, bucket: str, name: str, source: IO[bytes], size: int, version: str | None
    ) -> str:
        """See the base class."""
        condition = {"IfMatch": version} if version else {"IfNoneMatch": "*"}
        written = self._client().put_object(
            Bucket=bucket,
            Key=name,
            Body=source,
            ContentLength=size,
            **({} if version is None else condition),
        )
        return str(written["ETag"])

    def duplicate(self, source: tuple[str, str], target: tuple[str, str]) -> None:
        """See the base class."""
        bucket, name = source
        self._client().copy({"Bucket": bucket, "Key": name}, *target)

    def erase(self, bucket: str, name: str) -> None:
        """See the base class."""
        self._client().delete_object(Bucket=bucket, Key=name)

    def is_transient(self, error: Exception) -> bool:
        """See the base class."""
        return super().is_transient(error) or (
            isinstance(error, aws.ClientError) and _status(error) in (429, 500, 502, 503, 504)
        )

    def explain(self, path: str, verb: str, error: Exception) -> StorageError | None:
        """See the base class."""
        match error:
            case aws.NoCredentialsError() | aws.PartialCredentialsError():
                return StorageError(
                    path,
                    "no AWS credentials; run `aws configure`, or set input.storage.anonymous: true"
                    " for public buckets",
                )
            case aws.ClientError():
                return _explained(path, verb, error)
            case aws.BotoCoreError():
                return StorageError(path, brief(error))
        return None

    def _client(self) -> Any:
        return s3_client(self.access)


def require_own_server(path: str, access: StorageConfig) -> None:
    """Checks that an address at `minio://` would not be looked for at Amazon.

    Raises:
        StorageError: if no server is configured.
    """
    if "amazonaws.com" in s3_client(access).meta.endpoint_url:
        raise StorageError(
            path, "no server is configured; set AWS_ENDPOINT_URL to the address of MinIO's"
        )


def _explained(path: str, verb: str, error: aws.ClientError) -> StorageError:
    code = error.response["Error"]["Code"]
    match _status(error):
        case 404 if verb == "write" and code == "NoSuchKey":
            return ConflictError(path, "another process has removed it")
        case 404:
            is_bucket = code == "NoSuchBucket" or verb == "list"
            return MissingError(path, f"no such bucket{'' if is_bucket else ' or object'}")
        case 409 | 412:
            return conflict(path, verb)
        case 401 | 403:
            return StorageError(
                path, f"no permission to {verb} it ({code}); grant {_ACTIONS[verb]} to the account"
            )
    return StorageError(path, f"{code}: {error.response['Error'].get('Message', '')[:200]}")


def _status(error: aws.ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


@lru_cache(maxsize=4)
def s3_client(access: StorageConfig) -> Any:
    """Returns the process's client."""
    return boto3.client(
        "s3",
        config=Config(
            connect_timeout=access.timeout_secs,
            read_timeout=access.timeout_secs,
            max_pool_connections=_CONNECTIONS,
            # `object_store.py` repeats requests.
            retries={"total_max_attempts": 1},
            signature_version=UNSIGNED if access.anonymous else None,
        ),
    )
