from collections.abc import Iterable as _Iterable
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar

from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper

DESCRIPTOR: _descriptor.FileDescriptor

class CgroupMode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IGNORE: _ClassVar[CgroupMode]

class NetworkLock(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SKIP: _ClassVar[NetworkLock]

class RequestType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EMPTY: _ClassVar[RequestType]
    DUMP: _ClassVar[RequestType]
    RESTORE: _ClassVar[RequestType]
    CHECK: _ClassVar[RequestType]
    NOTIFY: _ClassVar[RequestType]
    VERSION: _ClassVar[RequestType]
IGNORE: CgroupMode
SKIP: NetworkLock
EMPTY: RequestType
DUMP: RequestType
RESTORE: RequestType
CHECK: RequestType
NOTIFY: RequestType
VERSION: RequestType

class InheritFd(_message.Message):
    __slots__ = ("fd", "key")
    KEY_FIELD_NUMBER: _ClassVar[int]
    FD_FIELD_NUMBER: _ClassVar[int]
    key: str
    fd: int
    def __init__(self, key: str | None = ..., fd: int | None = ...) -> None: ...

class Opts(_message.Message):
    __slots__ = ("ext_unix_sk", "external", "file_locks", "ghost_limit", "images_dir", "images_dir_fd", "inherit_fd", "leave_running", "link_remap", "log_file", "log_level", "lsm_profile", "manage_cgroups_mode", "network_lock", "notify_scripts", "orphan_pts_master", "pid", "shell_job", "tcp_close", "tcp_established", "tcp_skip_in_flight", "timeout")
    IMAGES_DIR_FD_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LEAVE_RUNNING_FIELD_NUMBER: _ClassVar[int]
    EXT_UNIX_SK_FIELD_NUMBER: _ClassVar[int]
    TCP_ESTABLISHED_FIELD_NUMBER: _ClassVar[int]
    SHELL_JOB_FIELD_NUMBER: _ClassVar[int]
    FILE_LOCKS_FIELD_NUMBER: _ClassVar[int]
    LOG_LEVEL_FIELD_NUMBER: _ClassVar[int]
    LOG_FILE_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_SCRIPTS_FIELD_NUMBER: _ClassVar[int]
    LINK_REMAP_FIELD_NUMBER: _ClassVar[int]
    INHERIT_FD_FIELD_NUMBER: _ClassVar[int]
    MANAGE_CGROUPS_MODE_FIELD_NUMBER: _ClassVar[int]
    GHOST_LIMIT_FIELD_NUMBER: _ClassVar[int]
    EXTERNAL_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    TCP_SKIP_IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    ORPHAN_PTS_MASTER_FIELD_NUMBER: _ClassVar[int]
    TCP_CLOSE_FIELD_NUMBER: _ClassVar[int]
    LSM_PROFILE_FIELD_NUMBER: _ClassVar[int]
    NETWORK_LOCK_FIELD_NUMBER: _ClassVar[int]
    IMAGES_DIR_FIELD_NUMBER: _ClassVar[int]
    images_dir_fd: int
    pid: int
    leave_running: bool
    ext_unix_sk: bool
    tcp_established: bool
    shell_job: bool
    file_locks: bool
    log_level: int
    log_file: str
    notify_scripts: bool
    link_remap: bool
    inherit_fd: _containers.RepeatedCompositeFieldContainer[InheritFd]
    manage_cgroups_mode: CgroupMode
    ghost_limit: int
    external: _containers.RepeatedScalarFieldContainer[str]
    timeout: int
    tcp_skip_in_flight: bool
    orphan_pts_master: bool
    tcp_close: bool
    lsm_profile: str
    network_lock: NetworkLock
    images_dir: str
    def __init__(self, images_dir_fd: int | None = ..., pid: int | None = ..., leave_running: bool | None = ..., ext_unix_sk: bool | None = ..., tcp_established: bool | None = ..., shell_job: bool | None = ..., file_locks: bool | None = ..., log_level: int | None = ..., log_file: str | None = ..., notify_scripts: bool | None = ..., link_remap: bool | None = ..., inherit_fd: _Iterable[InheritFd | _Mapping] | None = ..., manage_cgroups_mode: CgroupMode | str | None = ..., ghost_limit: int | None = ..., external: _Iterable[str] | None = ..., timeout: int | None = ..., tcp_skip_in_flight: bool | None = ..., orphan_pts_master: bool | None = ..., tcp_close: bool | None = ..., lsm_profile: str | None = ..., network_lock: NetworkLock | str | None = ..., images_dir: str | None = ...) -> None: ...

class DumpResponse(_message.Message):
    __slots__ = ("restored",)
    RESTORED_FIELD_NUMBER: _ClassVar[int]
    restored: bool
    def __init__(self, restored: bool | None = ...) -> None: ...

class RestoreResponse(_message.Message):
    __slots__ = ("pid",)
    PID_FIELD_NUMBER: _ClassVar[int]
    pid: int
    def __init__(self, pid: int | None = ...) -> None: ...

class Notification(_message.Message):
    __slots__ = ("pid", "script")
    SCRIPT_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    script: str
    pid: int
    def __init__(self, script: str | None = ..., pid: int | None = ...) -> None: ...

class Request(_message.Message):
    __slots__ = ("keep_open", "notify_success", "opts", "type")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    OPTS_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    KEEP_OPEN_FIELD_NUMBER: _ClassVar[int]
    type: RequestType
    opts: Opts
    notify_success: bool
    keep_open: bool
    def __init__(self, type: RequestType | str | None = ..., opts: Opts | _Mapping | None = ..., notify_success: bool | None = ..., keep_open: bool | None = ...) -> None: ...

class VersionInfo(_message.Message):
    __slots__ = ("major_number", "minor_number")
    MAJOR_NUMBER_FIELD_NUMBER: _ClassVar[int]
    MINOR_NUMBER_FIELD_NUMBER: _ClassVar[int]
    major_number: int
    minor_number: int
    def __init__(self, major_number: int | None = ..., minor_number: int | None = ...) -> None: ...

class Response(_message.Message):
    __slots__ = ("cr_errmsg", "cr_errno", "dump", "notify", "restore", "success", "type", "version")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    SUCCESS_FIELD_NUMBER: _ClassVar[int]
    DUMP_FIELD_NUMBER: _ClassVar[int]
    RESTORE_FIELD_NUMBER: _ClassVar[int]
    NOTIFY_FIELD_NUMBER: _ClassVar[int]
    CR_ERRNO_FIELD_NUMBER: _ClassVar[int]
    CR_ERRMSG_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    type: RequestType
    success: bool
    dump: DumpResponse
    restore: RestoreResponse
    notify: Notification
    cr_errno: int
    cr_errmsg: str
    version: VersionInfo
    def __init__(self, type: RequestType | str | None = ..., success: bool | None = ..., dump: DumpResponse | _Mapping | None = ..., restore: RestoreResponse | _Mapping | None = ..., notify: Notification | _Mapping | None = ..., cr_errno: int | None = ..., cr_errmsg: str | None = ..., version: VersionInfo | _Mapping | None = ...) -> None: ...

class InventoryEntry(_message.Message):
    __slots__ = ("dump_uptime", "img_version")
    IMG_VERSION_FIELD_NUMBER: _ClassVar[int]
    DUMP_UPTIME_FIELD_NUMBER: _ClassVar[int]
    img_version: int
    dump_uptime: int
    def __init__(self, img_version: int | None = ..., dump_uptime: int | None = ...) -> None: ...

class PstreeEntry(_message.Message):
    __slots__ = ("pgid", "pid", "ppid", "sid", "threads")
    PID_FIELD_NUMBER: _ClassVar[int]
    PPID_FIELD_NUMBER: _ClassVar[int]
    PGID_FIELD_NUMBER: _ClassVar[int]
    SID_FIELD_NUMBER: _ClassVar[int]
    THREADS_FIELD_NUMBER: _ClassVar[int]
    pid: int
    ppid: int
    pgid: int
    sid: int
    threads: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, pid: int | None = ..., ppid: int | None = ..., pgid: int | None = ..., sid: int | None = ..., threads: _Iterable[int] | None = ...) -> None: ...

class CredsEntry(_message.Message):
    __slots__ = ("apparmor_data", "cap_amb", "cap_bnd", "cap_eff", "cap_inh", "cap_prm", "egid", "euid", "fsgid", "fsuid", "gid", "groups", "lsm_profile", "lsm_sockcreate", "no_new_privs", "secbits", "sgid", "suid", "uid")
    UID_FIELD_NUMBER: _ClassVar[int]
    GID_FIELD_NUMBER: _ClassVar[int]
    EUID_FIELD_NUMBER: _ClassVar[int]
    EGID_FIELD_NUMBER: _ClassVar[int]
    SUID_FIELD_NUMBER: _ClassVar[int]
    SGID_FIELD_NUMBER: _ClassVar[int]
    FSUID_FIELD_NUMBER: _ClassVar[int]
    FSGID_FIELD_NUMBER: _ClassVar[int]
    CAP_INH_FIELD_NUMBER: _ClassVar[int]
    CAP_PRM_FIELD_NUMBER: _ClassVar[int]
    CAP_EFF_FIELD_NUMBER: _ClassVar[int]
    CAP_BND_FIELD_NUMBER: _ClassVar[int]
    SECBITS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    LSM_PROFILE_FIELD_NUMBER: _ClassVar[int]
    LSM_SOCKCREATE_FIELD_NUMBER: _ClassVar[int]
    APPARMOR_DATA_FIELD_NUMBER: _ClassVar[int]
    NO_NEW_PRIVS_FIELD_NUMBER: _ClassVar[int]
    CAP_AMB_FIELD_NUMBER: _ClassVar[int]
    uid: int
    gid: int
    euid: int
    egid: int
    suid: int
    sgid: int
    fsuid: int
    fsgid: int
    cap_inh: _containers.RepeatedScalarFieldContainer[int]
    cap_prm: _containers.RepeatedScalarFieldContainer[int]
    cap_eff: _containers.RepeatedScalarFieldContainer[int]
    cap_bnd: _containers.RepeatedScalarFieldContainer[int]
    secbits: int
    groups: _containers.RepeatedScalarFieldContainer[int]
    lsm_profile: str
    lsm_sockcreate: str
    apparmor_data: bytes
    no_new_privs: int
    cap_amb: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, uid: int | None = ..., gid: int | None = ..., euid: int | None = ..., egid: int | None = ..., suid: int | None = ..., sgid: int | None = ..., fsuid: int | None = ..., fsgid: int | None = ..., cap_inh: _Iterable[int] | None = ..., cap_prm: _Iterable[int] | None = ..., cap_eff: _Iterable[int] | None = ..., cap_bnd: _Iterable[int] | None = ..., secbits: int | None = ..., groups: _Iterable[int] | None = ..., lsm_profile: str | None = ..., lsm_sockcreate: str | None = ..., apparmor_data: bytes | None = ..., no_new_privs: int | None = ..., cap_amb: _Iterable[int] | None = ...) -> None: ...

class TaskCoreEntry(_message.Message):
    __slots__ = ("old_seccomp_filter", "old_seccomp_mode", "oom_score_adj", "task_state")
    TASK_STATE_FIELD_NUMBER: _ClassVar[int]
    OLD_SECCOMP_MODE_FIELD_NUMBER: _ClassVar[int]
    OLD_SECCOMP_FILTER_FIELD_NUMBER: _ClassVar[int]
    OOM_SCORE_ADJ_FIELD_NUMBER: _ClassVar[int]
    task_state: int
    old_seccomp_mode: int
    old_seccomp_filter: int
    oom_score_adj: int
    def __init__(self, task_state: int | None = ..., old_seccomp_mode: int | None = ..., old_seccomp_filter: int | None = ..., oom_score_adj: int | None = ...) -> None: ...

class ThreadCoreEntry(_message.Message):
    __slots__ = ("creds", "seccomp_filter", "seccomp_mode")
    CREDS_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_MODE_FIELD_NUMBER: _ClassVar[int]
    SECCOMP_FILTER_FIELD_NUMBER: _ClassVar[int]
    creds: CredsEntry
    seccomp_mode: int
    seccomp_filter: int
    def __init__(self, creds: CredsEntry | _Mapping | None = ..., seccomp_mode: int | None = ..., seccomp_filter: int | None = ...) -> None: ...

class CoreEntry(_message.Message):
    __slots__ = ("mtype", "tc", "thread_core")
    MTYPE_FIELD_NUMBER: _ClassVar[int]
    TC_FIELD_NUMBER: _ClassVar[int]
    THREAD_CORE_FIELD_NUMBER: _ClassVar[int]
    mtype: int
    tc: TaskCoreEntry
    thread_core: ThreadCoreEntry
    def __init__(self, mtype: int | None = ..., tc: TaskCoreEntry | _Mapping | None = ..., thread_core: ThreadCoreEntry | _Mapping | None = ...) -> None: ...

class SeccompFilter(_message.Message):
    __slots__ = ("filter", "flags", "prev")
    FILTER_FIELD_NUMBER: _ClassVar[int]
    PREV_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    filter: bytes
    prev: int
    flags: int
    def __init__(self, filter: bytes | None = ..., prev: int | None = ..., flags: int | None = ...) -> None: ...

class SeccompEntry(_message.Message):
    __slots__ = ("seccomp_filters",)
    SECCOMP_FILTERS_FIELD_NUMBER: _ClassVar[int]
    seccomp_filters: _containers.RepeatedCompositeFieldContainer[SeccompFilter]
    def __init__(self, seccomp_filters: _Iterable[SeccompFilter | _Mapping] | None = ...) -> None: ...

class RegFileEntry(_message.Message):
    __slots__ = ("flags", "id", "name", "size")
    ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    id: int
    flags: int
    name: str
    size: int
    def __init__(self, id: int | None = ..., flags: int | None = ..., name: str | None = ..., size: int | None = ...) -> None: ...

class InetSkEntry(_message.Message):
    __slots__ = ("dst_addr", "dst_port", "family", "id", "ino", "proto", "src_addr", "src_port", "state", "type")
    ID_FIELD_NUMBER: _ClassVar[int]
    INO_FIELD_NUMBER: _ClassVar[int]
    FAMILY_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    PROTO_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    SRC_PORT_FIELD_NUMBER: _ClassVar[int]
    DST_PORT_FIELD_NUMBER: _ClassVar[int]
    SRC_ADDR_FIELD_NUMBER: _ClassVar[int]
    DST_ADDR_FIELD_NUMBER: _ClassVar[int]
    id: int
    ino: int
    family: int
    type: int
    proto: int
    state: int
    src_port: int
    dst_port: int
    src_addr: _containers.RepeatedScalarFieldContainer[int]
    dst_addr: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, id: int | None = ..., ino: int | None = ..., family: int | None = ..., type: int | None = ..., proto: int | None = ..., state: int | None = ..., src_port: int | None = ..., dst_port: int | None = ..., src_addr: _Iterable[int] | None = ..., dst_addr: _Iterable[int] | None = ...) -> None: ...

class PipeEntry(_message.Message):
    __slots__ = ("flags", "id", "pipe_id")
    ID_FIELD_NUMBER: _ClassVar[int]
    PIPE_ID_FIELD_NUMBER: _ClassVar[int]
    FLAGS_FIELD_NUMBER: _ClassVar[int]
    id: int
    pipe_id: int
    flags: int
    def __init__(self, id: int | None = ..., pipe_id: int | None = ..., flags: int | None = ...) -> None: ...

class FileEntry(_message.Message):
    __slots__ = ("id", "isk", "pipe", "reg", "type")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    REG_FIELD_NUMBER: _ClassVar[int]
    ISK_FIELD_NUMBER: _ClassVar[int]
    PIPE_FIELD_NUMBER: _ClassVar[int]
    type: int
    id: int
    reg: RegFileEntry
    isk: InetSkEntry
    pipe: PipeEntry
    def __init__(self, type: int | None = ..., id: int | None = ..., reg: RegFileEntry | _Mapping | None = ..., isk: InetSkEntry | _Mapping | None = ..., pipe: PipeEntry | _Mapping | None = ...) -> None: ...
