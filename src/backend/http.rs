//! HTTP and files as sources of manifests and artifacts.
