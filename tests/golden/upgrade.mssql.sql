BEGIN TRANSACTION;

CREATE TABLE alembic_version (
    version_num VARCHAR(32) NOT NULL, 
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);

GO

-- Running upgrade  -> 873e0a8abbd9

CREATE TABLE users (
    id VARCHAR(36) NOT NULL, 
    email NVARCHAR(255) NOT NULL, 
    hashed_password VARCHAR(255) NOT NULL DEFAULT '!', 
    created_at DATETIME2(6) NOT NULL DEFAULT (SYSUTCDATETIME()), 
    CONSTRAINT pk_users PRIMARY KEY (id), 
    CONSTRAINT uq_users_email UNIQUE (email)
);

GO

CREATE TABLE bank_connections (
    id VARCHAR(36) NOT NULL, 
    user_id VARCHAR(36) NOT NULL, 
    access_token VARCHAR(500) NOT NULL, 
    item_id VARCHAR(100) NOT NULL, 
    institution_name NVARCHAR(255) NOT NULL, 
    created_at DATETIME2(6) NOT NULL DEFAULT (SYSUTCDATETIME()), 
    CONSTRAINT pk_bank_connections PRIMARY KEY (id), 
    CONSTRAINT fk_bank_connections_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE, 
    CONSTRAINT uq_bank_connections_user_id_id UNIQUE (user_id, id)
);

GO

CREATE TABLE budgets (
    id VARCHAR(36) NOT NULL, 
    user_id VARCHAR(36) NOT NULL, 
    name NVARCHAR(255) NOT NULL, 
    type VARCHAR(50) NOT NULL, 
    start_date DATE NOT NULL, 
    end_date DATE NULL, 
    categories NVARCHAR(max) NOT NULL, 
    created_at DATETIME2(6) NOT NULL DEFAULT (SYSUTCDATETIME()), 
    deleted_at DATETIME2(6) NULL, 
    CONSTRAINT pk_budgets PRIMARY KEY (id), 
    CONSTRAINT fk_budgets_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

GO

CREATE INDEX ix_budgets_user_id ON budgets (user_id);

GO

CREATE TABLE documents (
    id VARCHAR(36) NOT NULL, 
    user_id VARCHAR(36) NOT NULL, 
    filename NVARCHAR(255) NOT NULL, 
    document_type VARCHAR(50) NOT NULL, 
    file_path NVARCHAR(500) NOT NULL, 
    extracted_data NVARCHAR(max) NULL, 
    created_at DATETIME2(6) NOT NULL DEFAULT (SYSUTCDATETIME()), 
    deleted_at DATETIME2(6) NULL, 
    CONSTRAINT pk_documents PRIMARY KEY (id), 
    CONSTRAINT fk_documents_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

GO

CREATE INDEX ix_documents_user_id ON documents (user_id);

GO

CREATE TABLE goals (
    id VARCHAR(36) NOT NULL, 
    user_id VARCHAR(36) NOT NULL, 
    name NVARCHAR(255) NOT NULL, 
    target_amount NUMERIC(19, 4) NOT NULL, 
    current_amount NUMERIC(19, 4) NOT NULL DEFAULT 0, 
    target_date DATE NOT NULL, 
    priority VARCHAR(50) NOT NULL, 
    created_at DATETIME2(6) NOT NULL DEFAULT (SYSUTCDATETIME()), 
    deleted_at DATETIME2(6) NULL, 
    CONSTRAINT pk_goals PRIMARY KEY (id), 
    CONSTRAINT fk_goals_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

GO

CREATE INDEX ix_goals_user_id ON goals (user_id);

GO

CREATE TABLE net_worth_snapshots (
    id VARCHAR(36) NOT NULL, 
    user_id VARCHAR(36) NOT NULL, 
    snapshot_date DATE NOT NULL, 
    total_assets NUMERIC(19, 4) NOT NULL, 
    total_liabilities NUMERIC(19, 4) NOT NULL, 
    net_worth NUMERIC(19, 4) NOT NULL, 
    assets_breakdown NVARCHAR(max) NOT NULL, 
    liabilities_breakdown NVARCHAR(max) NOT NULL, 
    created_at DATETIME2(6) NOT NULL DEFAULT (SYSUTCDATETIME()), 
    CONSTRAINT pk_net_worth_snapshots PRIMARY KEY (id), 
    CONSTRAINT fk_net_worth_snapshots_user_id_users FOREIGN KEY(user_id) REFERENCES users (id) ON DELETE CASCADE
);

GO

CREATE INDEX ix_net_worth_snapshots_user_id_snapshot_date ON net_worth_snapshots (user_id, snapshot_date);

GO

CREATE TABLE accounts (
    id VARCHAR(36) NOT NULL, 
    user_id VARCHAR(36) NOT NULL, 
    connection_id VARCHAR(36) NOT NULL, 
    account_id VARCHAR(100) NOT NULL, 
    name NVARCHAR(255) NOT NULL, 
    type VARCHAR(50) NOT NULL, 
    subtype VARCHAR(50) NOT NULL, 
    balance NUMERIC(19, 4) NOT NULL, 
    currency VARCHAR(3) NOT NULL DEFAULT 'USD', 
    updated_at DATETIME2(6) NOT NULL DEFAULT (SYSUTCDATETIME()), 
    deleted_at DATETIME2(6) NULL, 
    CONSTRAINT pk_accounts PRIMARY KEY (id), 
    CONSTRAINT ck_accounts_currency CHECK (currency COLLATE Latin1_General_BIN LIKE '[A-Z][A-Z][A-Z]'), 
    CONSTRAINT fk_accounts_user_id_connection_id_bank_connections FOREIGN KEY(user_id, connection_id) REFERENCES bank_connections (user_id, id) ON DELETE CASCADE, 
    CONSTRAINT fk_accounts_user_id_users FOREIGN KEY(user_id) REFERENCES users (id), 
    CONSTRAINT uq_accounts_user_id_connection_id_account_id UNIQUE (user_id, connection_id, account_id), 
    CONSTRAINT uq_accounts_user_id_id UNIQUE (user_id, id)
);

GO

CREATE TABLE transactions (
    id VARCHAR(36) NOT NULL, 
    user_id VARCHAR(36) NOT NULL, 
    account_id VARCHAR(36) NOT NULL, 
    transaction_id VARCHAR(100) NOT NULL, 
    amount NUMERIC(19, 4) NOT NULL, 
    date DATE NOT NULL, 
    name NVARCHAR(255) NOT NULL, 
    merchant_name NVARCHAR(255) NULL, 
    category NVARCHAR(255) NULL, 
    pending BIT NOT NULL DEFAULT 0, 
    created_at DATETIME2(6) NOT NULL DEFAULT (SYSUTCDATETIME()), 
    CONSTRAINT pk_transactions PRIMARY KEY (id), 
    CONSTRAINT fk_transactions_user_id_account_id_accounts FOREIGN KEY(user_id, account_id) REFERENCES accounts (user_id, id) ON DELETE CASCADE, 
    CONSTRAINT fk_transactions_user_id_users FOREIGN KEY(user_id) REFERENCES users (id), 
    CONSTRAINT uq_transactions_user_id_account_id_transaction_id UNIQUE (user_id, account_id, transaction_id)
);

GO

CREATE INDEX ix_transactions_account ON transactions (account_id);

GO

CREATE INDEX ix_transactions_user_date ON transactions (user_id, date);

GO

INSERT INTO alembic_version (version_num) OUTPUT inserted.version_num VALUES ('873e0a8abbd9');

GO

COMMIT;

GO
